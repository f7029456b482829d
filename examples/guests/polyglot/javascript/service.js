// The census as an HTTP service: GET /census?limit=N counts the data in CENSUS_DATA (/data).
import { getEnvironment } from "wasi:cli/environment@0.2.10";
import { Census, LIMIT_MAX, number, topWanted } from "./census.js";

function answer(url) {
  if (url.pathname !== "/census") return [404, "there is only /census?limit=N\n"];
  const environment = new Map(getEnvironment());
  const limit = number(url.searchParams.get("limit") ?? "", 2, LIMIT_MAX);
  const top = topWanted(environment);
  if (limit === undefined || top === undefined) return [400, `limit must be 2 to ${LIMIT_MAX}\n`];
  try {
    return [200, Census.of(environment.get("CENSUS_DATA") ?? "/data").report(top, limit)];
  } catch (error) {
    return [500, `${error.message}\n`];
  }
}

addEventListener("fetch", (event) => {
  const [status, text] = answer(new URL(event.request.url));
  event.respondWith(new Response(text, { status }));
});
