"""A framework's whole life with mesoshttp, or with avmesos, which grew out of it; the argument says with which."""
import importlib
import os
import sys
import threading

from steps import MASTER, WASM_URL, Heard, ask_the_test, check, command_task, step

library = sys.argv[1]
client_class = importlib.import_module(library + ".client").MesosClient


class Life:
    """One client and what it hears; its blocking loop has a thread of its own, as its authors advise."""

    def __init__(self, framework_id=None):
        self.heard = Heard()
        self.client = client_class(
            mesos_urls=["http://" + MASTER], frameworkId=framework_id, frameworkName=library
        )
        self.client.failover_timeout = 100
        for event in ("SUBSCRIBED", "UPDATE", "ERROR", "FAILURE", "RESCIND", "HEARTBEAT"):
            self.client.on(event, lambda what, event=event: self.heard.add(event, what))
        self.client.on("OFFERS", self.offers)
        self.client.on("DISCONNECTED", lambda *_: self.heard.add("DISCONNECTED"))
        self.client.on("RECONNECTED", lambda *_: self.heard.add("RECONNECTED"))
        self.loop = threading.Thread(target=self.client.register, daemon=True)
        self.loop.start()
        (self.driver,) = self.heard.wait("the driver", "SUBSCRIBED")

    def offers(self, offers):
        for offer in offers:
            self.heard.add("offer", offer)

    def offer(self):
        return self.heard.wait("an offer", "offer")[0]

    def until(self, task_id, state, reason=None):
        def fits(update):
            status = update["status"]
            return (
                status["task_id"]["value"] == task_id
                and status["state"] == state
                and (reason is None or status.get("reason") == reason)
            )

        return self.heard.wait("%s to be %s" % (task_id, state), "UPDATE", fits)[0]["status"]


def task(task_id, offer, *more):
    info = command_task(task_id, offer.get_offer()["agent_id"]["value"], *more)
    # A name of its own for each: JSON may hold what is not ASCII.
    info["name"] = task_id + "-é"
    return info


step("subscribe")
life = Life()
life.heard.wait("a heartbeat", "HEARTBEAT")
check(life.client.get_master_info()["version"], "a version is told")

step("decline, then be offered again")
life.offer().decline({"filters": {"refuse_seconds": 0.1}})
offer = life.offer()

step("revive")
if hasattr(life.driver, "suppress"):
    life.driver.suppress()
offer.decline()
life.driver.revive()
offer = life.offer()

step("launch native and wasm tasks")
agent_id = offer.get_offer()["agent_id"]["value"]
module = {"value": WASM_URL, "output_file": "hello.wasm"}
offer.accept(
    [
        task("native", offer, "echo native"),
        task("sleeping", offer, "sleep 1000"),
        task("staying", offer, "sleep 1000"),
        task("wasm", offer, "hello.wasm from mesoshttp", [module]),
    ]
)
life.until("native", "TASK_FINISHED")
life.until("wasm", "TASK_FINISHED")
life.until("sleeping", "TASK_RUNNING")

step("offers combined")
offer = life.offer()
life.client.combine_offers([offer], [task("combined", offer, "true")])
life.until("combined", "TASK_FINISHED")

step("reconcile")
life.driver.reconcile([{"task_id": {"value": "ghost"}, "agent_id": {"value": agent_id}}])
life.until("ghost", "TASK_LOST", "REASON_RECONCILIATION")
life.driver.reconcile([{"task_id": {"value": "sleeping"}, "agent_id": {"value": agent_id}}])
life.until("sleeping", "TASK_RUNNING", "REASON_RECONCILIATION")

step("kill")
life.driver.kill(agent_id, "sleeping")
life.until("sleeping", "TASK_KILLED")

step("failover")
framework_id = life.client.frameworkId
# It ends at the next event; without that it would take the framework back when it is taken from it.
life.client.disconnect_framework()
successor = Life(framework_id)
check(successor.client.frameworkId == framework_id, "the successor has the same id")
life.loop.join(60)
check(not life.loop.is_alive(), "the first client has ended")
life = successor
life.driver.reconcile([{"task_id": {"value": "staying"}, "agent_id": {"value": agent_id}}])
life.until("staying", "TASK_RUNNING", "REASON_RECONCILIATION")

step("the master fails over")
ask_the_test("restart the master")
life.heard.wait("the master to come back", "RECONNECTED")
ask_the_test("wait for the agent")
(life.driver,) = life.heard.wait("the driver of the new stream", "SUBSCRIBED")
life.driver.reconcile([{"task_id": {"value": "staying"}, "agent_id": {"value": agent_id}}])
life.until("staying", "TASK_RUNNING", "REASON_RECONCILIATION")

step("teardown")
life.driver.tearDown()
step("lived")
os._exit(0)
