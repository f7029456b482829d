"use strict";
// A framework's whole life with mesos-framework, whose own handlers match offers and launch what is pending.

const { Scheduler, Mesos } = require("mesos-framework");

const PATIENCE = 60000;
const [host, port] = process.env.TEPUI_TEST_MASTER.split(":");
const mesos = Mesos.getMesos();

function step(words) {
  console.log(words);
}

function check(holds, words) {
  if (!holds) {
    throw new Error(words);
  }
}

// What the schedulers said, and who waits for some of it.
const heard = [];
let waiting = null;

function hear(kind, what) {
  heard.push({ kind, what });
  look();
}

function look() {
  if (waiting === null) {
    return;
  }
  const at = heard.findIndex(({ kind, what }) => kind === waiting.kind && waiting.fits(what));
  if (at >= 0) {
    const [{ what }] = heard.splice(at, 1);
    clearTimeout(waiting.timer);
    const { resolve } = waiting;
    waiting = null;
    resolve(what);
  }
}

function wait(name, kind, fits = () => true) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`waited in vain for ${name}; heard: ${JSON.stringify(heard)}`)),
      PATIENCE
    );
    waiting = { kind, fits, resolve, timer };
    look();
  });
}

function until(name, state, reason) {
  return wait(
    `${name} to be ${state}`,
    "update",
    ({ status }) =>
      status.task_id.value.includes(name) && status.state === state && (!reason || status.reason === reason)
  );
}

function command(value, uris) {
  const info = new mesos.CommandInfo(uris, null, true, value, null, null);
  return info;
}

function pending(value, uris = null, ports = 0) {
  return {
    priority: 1,
    allowScaling: true,
    commandInfo: command(value, uris),
    resources: { cpus: 0.1, mem: 32, ports, disk: 0 },
  };
}

function subscribe({ frameworkId, ...options }) {
  const scheduler = new Scheduler({
    masterUrl: host,
    port,
    frameworkName: "mesos-framework",
    logging: { level: "error", path: ".", fileName: "mesos-framework.log" },
    restartStates: ["TASK_ERROR"],
    ...options,
  });
  scheduler.frameworkId = frameworkId || null;
  for (const kind of ["subscribed", "offers", "update", "message", "failure", "heartbeat", "rescind"]) {
    scheduler.on(kind, (what) => hear(kind, what));
  }
  for (const kind of ["accept", "decline", "kill", "reconcile", "revive", "teardown", "acknowledge"]) {
    scheduler.on("sent_" + kind, () => hear("sent", kind));
  }
  scheduler.on("error", (error) => hear("error", error.message || error));
  return new Promise((resolve) =>
    scheduler.on("ready", () => {
      scheduler.subscribe();
      resolve(scheduler);
    })
  );
}

async function life() {
  step("subscribe with tasks pending");
  const module = new mesos.CommandInfo.URI(process.env.TEPUI_TEST_WASM);
  module.output_file = "hello.wasm";
  const first = await subscribe({
    tasks: {
      native: pending("echo $HOST $PORT0; exit 0"),
      failing: pending("exit 3"),
      sleeping: pending("sleep 1000", null, 1),
      wasm: pending("hello.wasm from mesos-framework", [module]),
    },
  });
  const { frameworkId } = await wait("a framework id", "subscribed");
  await wait("a heartbeat", "heartbeat");
  await wait("offers", "offers");
  await wait("the offer to be accepted", "sent", (kind) => kind === "accept");

  step("statuses, acknowledged");
  const finished = await until("native", "TASK_FINISHED");
  check(Buffer.from(finished.status.uuid, "base64").length === 16, "a uuid of 16 bytes");
  await until("wasm", "TASK_FINISHED");
  await until("failing", "TASK_FAILED");
  const running = await until("sleeping", "TASK_RUNNING");
  check(running.status.executor_id.value, "a status names its executor");
  await wait("an acknowledgement", "sent", (kind) => kind === "acknowledge");
  const [sleeping] = first.launchedTasks.filter((task) => task.name.startsWith("sleeping"));
  check(sleeping.runtimeInfo.network.ip, "the offer told an address");
  check(sleeping.runtimeInfo.network.ports.length === 1, "a port was taken from the offer");

  step("reconcile");
  const agent = running.status.agent_id.value;
  first.reconcile("ghost", agent);
  const ghost = await until("ghost", "TASK_LOST", "REASON_RECONCILIATION");
  check(!ghost.status.uuid, "the master's update has no uuid");
  first.reconcile();
  await until("sleeping", "TASK_RUNNING", "REASON_RECONCILIATION");

  step("revive");
  first.revive();
  await wait("the revival", "sent", (kind) => kind === "revive");

  step("a call with its body under the wrong key is refused cleanly");
  first.shutdown(agent, "nobody");
  const refused = await wait("a refusal", "error", (words) => String(words).includes("not accepted"));
  check(String(refused).includes("'400'"), refused);

  step("failover");
  // As if its process had died; the successor keeps the tasks.
  first.httpRequest.destroy();
  const second = await subscribe({ frameworkId });
  const again = await wait("the same framework again", "subscribed");
  check(again.frameworkId === frameworkId, "the id is the same");
  second.reconcile();
  await until("sleeping", "TASK_RUNNING", "REASON_RECONCILIATION");

  step("kill");
  second.kill(sleeping.taskId, agent);
  await until("sleeping", "TASK_KILLED");

  step("teardown");
  second.teardown();
  await wait("the teardown", "sent", (kind) => kind === "teardown");
  step("lived");
  process.exit(0);
}

life().catch((error) => {
  console.error("FAILED: " + (error.stack || error));
  process.exit(1);
});
