#!/usr/bin/env python3
"""A whole framework in plain Python: runs one command, or wasm module, several times and reports how each run ended.

    scheduler.py --master 127.0.0.1:5050 --count 3 -- 'echo run $MESOS_TASK_ID'
    scheduler.py --master 127.0.0.1:5050 --module http://127.0.0.1:8000/hello.wasm -- hello.wasm some arguments
"""
import argparse
import http.client
import json
import sys

PATH = "/api/v1/scheduler"
TERMINAL = {"TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST"}


def records(stream):
    """The stream is records: a length in decimal, a line feed, and so many bytes of JSON."""
    while True:
        length = stream.readline()
        if not length:
            return
        yield json.loads(stream.read(int(length)))


class Framework:
    def __init__(self, master, command, module, count):
        self.master = master
        self.command = command
        self.module = module
        self.waiting = [f"run-{number}" for number in range(count)]
        self.running = set()
        self.results = {}

    def subscribe(self):
        """Opens the stream. The answer never ends: it brings the events."""
        info = {"user": "root", "name": "python example", "roles": ["python"],
                "capabilities": [{"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}]}
        connection = http.client.HTTPConnection(self.master)
        body = json.dumps({"type": "SUBSCRIBE", "subscribe": {"framework_info": info}})
        connection.request("POST", PATH, body, {"Content-Type": "application/json", "Accept": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            sys.exit(f"the master refuses the subscription: {response.read().decode()}")
        # Every later call names the stream, so that a scheduler that was replaced cannot act any more.
        self.stream_id = response.headers["Mesos-Stream-Id"]
        return records(response)

    def call(self, kind, **fields):
        """Every call but SUBSCRIBE goes over a connection of its own and is answered with 202: taken, not yet done."""
        connection = http.client.HTTPConnection(self.master)
        body = json.dumps({"type": kind, "framework_id": self.framework_id, **fields})
        headers = {"Content-Type": "application/json", "Mesos-Stream-Id": self.stream_id}
        connection.request("POST", PATH, body, headers)
        response = connection.getresponse()
        answer = response.read().decode()
        connection.close()
        if response.status != 202:
            sys.exit(f"{kind} was refused with {response.status}: {answer}")

    def task(self, name, offer):
        command = {"value": self.command}
        if self.module:
            command["uris"] = [{"value": self.module}]
        return {"name": name, "task_id": {"value": name}, "agent_id": offer["agent_id"], "command": command,
                "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                              {"name": "mem", "type": "SCALAR", "scalar": {"value": 64}}]}

    def on_offers(self, offers):
        for offer in offers:
            held = {}
            for resource in offer["resources"]:
                if resource["type"] == "SCALAR":
                    held[resource["name"]] = held.get(resource["name"], 0) + resource["scalar"]["value"]
            room = int(min(held.get("cpus", 0) / 0.1, held.get("mem", 0) / 64))
            tasks = [self.task(name, offer) for name in self.waiting[:room]]
            if not tasks:
                # A minute of peace: what is declined is offered again only then.
                self.call("DECLINE", decline={"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 60}})
                continue
            self.waiting = self.waiting[len(tasks):]
            self.running.update(task["name"] for task in tasks)
            launch = {"type": "LAUNCH", "launch": {"task_infos": tasks}}
            self.call("ACCEPT", accept={"offer_ids": [offer["id"]], "operations": [launch]})

    def on_update(self, status):
        task = status["task_id"]["value"]
        # An update with a uuid is sent again until it is acknowledged; one without was made by the master itself.
        if "uuid" in status:
            self.call("ACKNOWLEDGE", acknowledge={
                "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]})
        ended = status["state"] in TERMINAL or status["state"] in ("TASK_DROPPED", "TASK_GONE")
        if ended and task in self.running:
            self.running.discard(task)
            self.results[task] = status["state"]
            print(task, status["state"], status.get("message", ""), flush=True)

    def run(self):
        for event in self.subscribe():
            if event["type"] == "SUBSCRIBED":
                self.framework_id = event["subscribed"]["framework_id"]
                print("framework", self.framework_id["value"], flush=True)
            elif event["type"] == "OFFERS":
                self.on_offers(event["offers"]["offers"])
            elif event["type"] == "UPDATE":
                self.on_update(event["update"]["status"])
            elif event["type"] == "ERROR":
                sys.exit(f"the master ends the framework: {event['error']['message']}")
            if not self.waiting and not self.running:
                self.call("TEARDOWN")
                return all(state == "TASK_FINISHED" for state in self.results.values())
        sys.exit("the master closed the stream")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--master", default="127.0.0.1:5050", help="host:port")
    arguments.add_argument("--count", type=int, default=1, help="how many times to run it")
    arguments.add_argument("--module", help="URL of a wasm module that the command's first word names")
    arguments.add_argument("command", help="a shell command, or the module's file name and its arguments", nargs="+")
    given = arguments.parse_args()
    framework = Framework(given.master, " ".join(given.command), given.module, given.count)
    sys.exit(0 if framework.run() else 1)


if __name__ == "__main__":
    main()
