"""The operator classes of pymesos: the master's and the agent's reads, weights and the event stream."""
import logging
import os

from pymesos import (
    MesosOperatorAgentDriver,
    MesosOperatorMasterDriver,
    MesosSchedulerDriver,
    OperatorMaster,
    Scheduler,
)

from steps import AGENT, MASTER, Heard, check, command_task, step

logging.basicConfig(level=logging.WARNING)


class Watching(OperatorMaster):
    def __init__(self, heard):
        self.heard = heard

    def taskAdded(self, task_info):
        self.heard.add("task added", task_info)

    def taskUpdated(self, task_info):
        self.heard.add("task updated", task_info)

    def frameworkAdded(self, framework_info):
        self.heard.add("framework added", framework_info)

    def frameworkUpdated(self, framework_info):
        self.heard.add("framework updated", framework_info)

    def frameworkRemoved(self, framework_info):
        self.heard.add("framework removed", framework_info)

    def agentAdded(self, agent_info):
        self.heard.add("agent added", agent_info)

    def agentRemoved(self, agent_info):
        self.heard.add("agent removed", agent_info)


class Launching(Scheduler):
    """Launches one task and kills it once it runs."""

    launched = False

    def resourceOffers(self, driver, offers):
        if not self.launched:
            self.launched = True
            task = command_task("watched", offers[0].agent_id.value, "sleep 1000")
            driver.launchTasks(offers[0].id, [task])

    def statusUpdate(self, driver, update):
        heard.add(update.state, update)


heard = Heard()
watched = Heard()

step("subscribe to the operator's events")
stream = MesosOperatorMasterDriver(MASTER, Watching(watched), use_addict=True)
stream.start()
framework = {"user": "root", "name": "watched by pymesos"}
driver = MesosSchedulerDriver(Launching(), framework, MASTER, use_addict=True)
while not stream.connected:
    watched.pause()
driver.start()
heard.wait("the task to run", "TASK_RUNNING")

step("read as an operator")
operator = MesosOperatorMasterDriver(MASTER, Watching(watched), use_addict=True)
check(operator.getHealth()["get_health"]["healthy"] is True, "healthy")
check(operator.getVersion()["get_version"]["version_info"]["version"], "a version")
check(operator.getFlags()["get_flags"]["flags"], "flags")
check(operator.getMetrics(1000000000)["get_metrics"]["metrics"], "metrics")
check("level" in operator.getLoggingLevel()["get_logging_level"], "a logging level")
check(operator.getMaster()["get_master"]["master_info"]["id"], "a master")
check(len(operator.getAgents()["get_agents"]["agents"]) == 1, "one agent")
frameworks = operator.getFrameworks()["get_frameworks"]["frameworks"]
check([f["framework_info"]["name"] for f in frameworks] == ["watched by pymesos"], "one framework")
running = {task["task_id"]["value"] for task in operator.getTasks()["get_tasks"]["tasks"]}
check(running == {"watched"}, "one task runs, not %s" % running)
check(operator.getState()["get_state"]["get_tasks"]["tasks"], "a state")
check("roles" in operator.getRoles()["get_roles"], "roles")
operator.updateWeights([{"role": "light", "weight": 0.5}])
weights = operator.getWeights()["get_weights"]["weight_infos"]
check({"role": "light", "weight": 0.5} in weights, "the weight was set: %s" % weights)
check("get_executors" in operator.getExecutors(), "executors")
of_agent = MesosOperatorAgentDriver(AGENT)
check(of_agent.getHealth()["get_health"]["healthy"] is True, "a healthy agent")
check(of_agent.getVersion()["get_version"]["version_info"]["version"], "the agent's version")
check(of_agent.getFlags()["get_flags"]["flags"], "the agent's flags")
check(of_agent.getTasks()["get_tasks"]["launched_tasks"], "the agent's tasks")

step("what the stream tells")
driver.killTask({"value": "watched"})
heard.wait("the kill", "TASK_KILLED")
driver.stop()
driver.join()
for kind in ("framework added", "task added", "task updated", "framework removed"):
    watched.wait(kind, kind)
step("lived")
os._exit(0)
