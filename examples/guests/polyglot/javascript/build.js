// Makes the two components: `node build.js WIT`, WIT being the directory with the worlds.
//
// A component is made of one source file, so the modules are put together here, without their imports of each other.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const wit = process.argv[2] ?? "wit";

async function together(...files) {
  const sources = await Promise.all(files.map((file) => readFile(file, "utf8")));
  return sources
    .join("\n")
    .replaceAll(/^import .* from "\.\/.*";\n/gm, "")
    .replaceAll(/^export (?=function|class|const (LIMIT_MAX|TOP_MAX))/gm, "");
}

async function make(worldName, source, disableFeatures) {
  const { component } = await componentize(source, { witPath: wit, worldName, disableFeatures });
  await writeFile(`${worldName}.wasm`, component);
}

await make("job", await together("files.js", "census.js", "job.js"), ["fetch-event"]);
await make("service", await together("files.js", "census.js", "service.js"), []);
