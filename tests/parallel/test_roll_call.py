"""All processes of a run meet, each once, before JAX starts; with real processes: test_disagreement.py."""

import concurrent.futures
import contextlib
import socket

import pytest

from cover_jax import errors
from cover_jax.errors import ConfigError
from cover_jax.parallel import hosts, roll_call
from tests.helpers import jax_private, jobs


@pytest.fixture
def address():
    reserved, address = jobs.reserve_address()
    with reserved:
        yield address


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(roll_call, "_TAKEN_S", 0.5)
    monkeypatch.setattr(roll_call, "_RESOLVE_S", 0.0)


def meet(address: str, *processes: tuple[int, int]) -> list[str]:
    """What each process (id, number of processes) ends with; the last one is process 0."""

    def one(process: tuple[int, int]) -> str:
        coordinator = hosts.Coordinator(address, process_id=process[0], num_processes=process[1])
        try:
            roll_call.meet(coordinator)
        except ConfigError as error:
            return str(error)
        return "met"

    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(one, processes))


def test_all_meet(address):
    assert meet(address, (2, 3), (1, 3), (0, 3)) == ["met"] * 3
    assert meet(address, (0, 1)) == ["met"]  # and the port is free again


def test_two_processes_with_one_id_end_all(address):
    ends = meet(address, (1, 3), (1, 3), (0, 3))
    assert set(ends) == {"--process_id=1: two processes have this id; must be another one for each process"}


def test_two_processes_0_end_both(address):
    host, port = address.split(":")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, address, (0, 2))
        while True:  # until it listens
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
                break
        ends = [*meet(address, (0, 2)), *first.result()]
    assert set(ends) == {"--process_id=0: two processes have this id; must be another one for each process"}


def test_another_number_of_processes_ends_both(address):
    ends = meet(address, (1, 3), (0, 2))
    assert set(ends) == {"--num_processes=3 on process 1, 2 on process 0: must be the same"}


def test_a_process_that_ends_and_comes_again_is_one_process(address):
    host, port = address.split(":")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, address, (0, 3))
        for process in (1, 1, 2):
            while True:  # until process 0 listens
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))) as gone:
                    gone.sendall(f'{{"process_id": {process}, "num_processes": 3}}\n'.encode())
                    if process == 1:
                        break
                    assert meet(address, (1, 3)) == ["met"]
                    break
        assert first.result() == ["met"]


@pytest.mark.parametrize(
    ("coordinator", "message"),
    [
        (("nowhere.invalid:1", 2, 1), "--coordinator=nowhere.invalid:1: the host 'nowhere.invalid' cannot be resolved"),
        (("localhost", 2, 1), "--coordinator=localhost: must be HOST:PORT"),
        (("localhost:70000", 2, 1), "--coordinator=localhost:70000: must be HOST:PORT"),
        (("localhost:1", 2, 2), "--process_id=2: must be from 0 to 1, below --num_processes=2"),
        (("localhost:1", 2, -1), "--process_id=-1: must be from 0 to 1"),
        (("localhost:1", 0, 0), "--num_processes=0: must be at least 1"),
    ],
    ids=["host", "no port", "port", "id", "negative id", "number"],
)
def test_what_cannot_be_right_is_refused_by_name(coordinator, message):
    with pytest.raises(ConfigError) as error:
        roll_call.check(hosts.Coordinator(*coordinator))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "shares its port"])
def test_a_taken_port_is_named(shares, monkeypatch):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0), reuse_port=shares) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--coordinator=127.0.0.1:{port}: port {port} cannot be opened"):
            roll_call.meet(hosts.Coordinator(f"127.0.0.1:{port}", 2, 0))


def test_another_program_on_the_port_of_process_0_is_named(monkeypatch):
    monkeypatch.setattr(roll_call, "_OTHER_ANSWER_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other, concurrent.futures.ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        process = pool.submit(meet, address, (1, 2))
        while not process.done():
            other.settimeout(0.5)
            with contextlib.suppress(TimeoutError), other.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        assert process.result()[0] == f"--coordinator={address}: another program has this port; take a free one"


def test_a_process_that_returns_after_the_roll_call_may_start_again(address, monkeypatch):
    """It was killed between the roll call and JAX's connection. The others wait for it in JAX's runtime."""
    monkeypatch.setattr(roll_call, "_OTHER_ANSWER_S", 0.0)
    with jax_private.distributed_service(address, 2), pytest.raises(hosts.LostPeerError) as lost:
        roll_call.meet(hosts.Coordinator(address, 2, 1))
    assert lost.value.exit_code == errors.LOST_PEER
    assert "the run there has begun without this process. If process 1 was started again, the others" in str(lost.value)
