"""A reward that goes wrong in the way that the completion names; the tests know its lines."""

import datetime
import logging
import os
import random
import socket
import subprocess
import time

from swift_sdk import Failed, http, reward


@reward("trouble", settings={"share": 0.5})
class Trouble:
    def configure(self, settings):
        if settings["share"] > 1.0:
            raise ValueError("more than all")

    def score(self, sample, state):
        return getattr(self, sample.completion)(sample, state)

    def raises(self, sample, state):
        raise ValueError(f"no number in {sample.solution!r}")

    def cause(self, sample, state):
        try:
            return int("x")
        except ValueError as error:
            raise KeyError("count") from error

    def says(self, sample, state):
        raise Failed("the solution is no number")

    def imports(self, sample, state):
        import colorsys

    def opens(self, sample, state):
        return open("/etc/passwd").read()

    def lists(self, sample, state):
        return len(os.listdir("/"))

    def clock(self, sample, state):
        return time.time()

    def today(self, sample, state):
        return datetime.datetime.now().year

    def entropy(self, sample, state):
        return os.urandom(1)[0]

    def connects(self, sample, state):
        return socket.create_connection(("127.0.0.1", 80))

    def spawns(self, sample, state):
        return subprocess.run(["ls"])

    def recursion(self, sample, state):
        return self.recursion(sample, state) + 1

    def exits(self, sample, state):
        raise SystemExit(3)

    def nan(self, sample, state):
        return float("nan")

    def text(self, sample, state):
        return "high"

    def loops(self, sample, state):
        while True:
            pass

    def memory(self, sample, state):
        kept = []
        while True:
            kept.append(bytes(1 << 24))

    def chance(self, sample, state):
        return random.random()

    def column(self, sample, state):
        return sample.columns["weights"]["first"] + state.extra["more"]

    def prints(self, sample, state):
        print("seen")
        logging.warning("odd")

    def asks(self, sample, state):
        answer = http.post(sample.solution, json={"text": "é"})
        return answer.status + answer.json()["score"]
