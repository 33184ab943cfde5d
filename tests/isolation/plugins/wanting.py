"""A plugin that wants what no plugin may have, by the ways in which people write it."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import socket
import subprocess
import urllib.request

import torch
from torch.utils.data import DataLoader

from ringfence import connect, passthrough


class Wanting:
    role = "gradient"
    forward = passthrough

    def __init__(self, what: str):
        self.what = what

    def backward(self, gradients):
        getattr(self, self.what)()

    def compile(self):
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))

    def compile_nothing(self):
        torch.compile(lambda x: x.sin() + 1, backend="aot_eager")(torch.ones(3))

    def run_a_program(self):
        subprocess.run(["ls"], check=True)

    def run_it_and_wrap_the_error(self):
        try:
            self.run_a_program()
        except OSError as error:
            raise RuntimeError("git is missing") from error

    def fork(self):
        os.fork()

    def pool(self):
        multiprocessing.Pool(2)

    def spawn(self):
        multiprocessing.get_context("spawn").Process(target=print).start()

    def executor(self):
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            list(pool.map(abs, [1]))

    def loader(self):
        list(DataLoader([torch.ones(1)], num_workers=1))

    def loader_without_workers(self):
        list(DataLoader([torch.ones(1)]))

    def download(self):
        urllib.request.urlopen("http://example.com/weights.pt", timeout=2)

    def hub(self):
        torch.hub.load_state_dict_from_url("https://example.com/weights.pt", progress=False)

    def name(self):
        socket.create_connection(("example.com", 80), timeout=2)

    def address(self):
        socket.create_connection(("127.0.0.1", 80), timeout=2)

    def events(self):
        asyncio.run(asyncio.sleep(0))

    def connect(self):
        connect("example.com", 80)

    def other(self):
        raise ValueError("no")

    def other_file(self):
        raise PermissionError(13, "Permission denied", "relative")
