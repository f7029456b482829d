"""A framework's whole life with the scheduler and the executor of pymesos."""
import base64
import logging
import os
import sys

from pymesos import MesosSchedulerDriver, Scheduler

from steps import MASTER, WASM_URL, Heard, ask_the_test, check, command_task, resources, step

logging.basicConfig(level=logging.WARNING)
HERE = os.path.dirname(os.path.abspath(__file__))


class Listening(Scheduler):
    def __init__(self, heard):
        self.heard = heard

    def registered(self, driver, framework_id, master_info):
        self.heard.add("registered", framework_id, master_info)

    def reregistered(self, driver, master_info):
        self.heard.add("reregistered", master_info)

    def disconnected(self, driver):
        self.heard.add("disconnected")

    def resourceOffers(self, driver, offers):
        for offer in offers:
            self.heard.add("offer", offer)

    def offerRescinded(self, driver, offer_id):
        self.heard.add("rescinded", offer_id)

    def statusUpdate(self, driver, update):
        self.heard.add("status", update)

    def frameworkMessage(self, driver, executor_id, agent_id, message):
        self.heard.add("message", executor_id.value, base64.b64decode(message))

    def executorLost(self, driver, executor_id, agent_id, status):
        self.heard.add("executor lost", executor_id.value, status)

    def slaveLost(self, driver, agent_id):
        self.heard.add("agent lost", agent_id)

    def processHeartBeat(self, driver):
        self.heard.add("heartbeat")

    def error(self, driver, message):
        self.heard.add("error", message)


heard = Heard()
framework = {"user": "root", "name": "pymesos", "failover_timeout": 100, "checkpoint": True}


def subscribe(framework):
    driver = MesosSchedulerDriver(Listening(heard), framework, MASTER, use_addict=True)
    driver.start()
    return driver


def until(task_id, state, reason=None):
    def fits(update):
        return (
            update.task_id.value == task_id
            and update.state == state
            and (reason is None or update.reason == reason)
        )

    (update,) = heard.wait("%s to be %s" % (task_id, state), "status", fits)
    return update


def an_offer():
    (offer,) = heard.wait("an offer", "offer")
    return offer


step("subscribe")
driver = subscribe(framework)
framework_id, master_info = heard.wait("a framework id", "registered")
heard.wait("a heartbeat", "heartbeat")
check(master_info.version and driver.version, "a version is told")

step("decline, then be offered again")
offer = an_offer()
names = {resource.name: resource for resource in offer.resources}
check(names["ports"].type == "RANGES" and names["ports"].ranges.range, "ports are ranges")
check(offer.url.address.ip and offer.url.address.port and offer.hostname, "an offer has an address")
check("allocation_info" not in offer, "no allocation without MULTI_ROLE")
driver.declineOffer(offer.id, filters={"refuse_seconds": 0.1})
offer = an_offer()

step("suppress, revive")
driver.suppressOffers()
driver.declineOffer(offer.id)
driver.reviveOffers()
offer = an_offer()

step("launch native and wasm tasks")
agent_id = offer.agent_id.value
driver.launchTasks(
    offer.id,
    [
        command_task("native", agent_id, "echo native; exit 0"),
        command_task("failing", agent_id, "exit 3"),
        command_task("sleeping", agent_id, "sleep 1000"),
        command_task(
            "wasm", agent_id, "hello.wasm from pymesos", [{"value": WASM_URL, "output_file": "hello.wasm"}]
        ),
    ],
)
for task_id, state in [("native", "TASK_FINISHED"), ("failing", "TASK_FAILED"), ("wasm", "TASK_FINISHED")]:
    update = until(task_id, state)
    check(len(base64.b64decode(update.uuid)) == 16, "an agent's update has a uuid of 16 bytes")
until("sleeping", "TASK_RUNNING")

step("reconcile")
driver.reconcileTasks([{"task_id": {"value": "ghost"}}, {"task_id": {"value": "sleeping"}}])
update = until("ghost", "TASK_LOST", "REASON_RECONCILIATION")
check("uuid" not in update, "the master's update is not acknowledged")
until("sleeping", "TASK_RUNNING", "REASON_RECONCILIATION")
driver.reconcileTasks([])
until("sleeping", "TASK_RUNNING", "REASON_RECONCILIATION")
driver.requestResources([])

step("a custom executor")
executor = {
    "type": "CUSTOM",
    "executor_id": {"value": "echo"},
    "name": "echo",
    "command": {"value": "exec '%s' '%s/pymesos_executor.py'" % (sys.executable, HERE)},
    "resources": resources(0.1, 32),
}
tasks = [command_task(task_id, agent_id, "") for task_id in ("inside-1", "inside-2")]
for task in tasks:
    del task["command"]
    task["executor"] = executor
offer = an_offer()
driver.launchTasks(offer.id, tasks)
until("inside-1", "TASK_RUNNING")
until("inside-2", "TASK_RUNNING")
driver.sendFrameworkMessage(
    {"value": "echo"}, {"value": agent_id}, base64.b64encode("hällo".encode()).decode()
)
heard.wait("the echo", "message", lambda executor, data: (executor, data.decode()) == ("echo", "echo hällo"))
driver.killTask({"value": "inside-1"})
until("inside-1", "TASK_KILLED")

step("failover")
driver.stop(failover=True)
driver.join()
driver = subscribe(dict(framework, id={"value": framework_id.value}))
heard.wait("the same framework again", "reregistered")
driver.reconcileTasks([])
until("sleeping", "TASK_RUNNING", "REASON_RECONCILIATION")
until("inside-2", "TASK_RUNNING", "REASON_RECONCILIATION")

step("the master fails over")
ask_the_test("restart the master")
heard.wait("the master to come back", "reregistered")
ask_the_test("wait for the agent")
driver.reconcileTasks([])
until("sleeping", "TASK_RUNNING", "REASON_RECONCILIATION")

step("kill")
driver.killTask({"value": "sleeping"})
until("sleeping", "TASK_KILLED")

step("teardown")
driver.stop()
driver.join()
step("lived")
os._exit(0)
