"""The executor of pymesos_life.py: its tasks run until they are killed, and it echoes what the framework says."""
import base64

from pymesos import Executor, MesosExecutorDriver


class Echo(Executor):
    def launchTask(self, driver, task):
        driver.sendStatusUpdate({"task_id": task["task_id"], "state": "TASK_RUNNING"})

    def killTask(self, driver, task_id):
        driver.sendStatusUpdate({"task_id": task_id, "state": "TASK_KILLED"})

    def frameworkMessage(self, driver, message):
        said = b"echo " + base64.b64decode(message)
        driver.sendFrameworkMessage(base64.b64encode(said).decode())


MesosExecutorDriver(Echo()).run()
