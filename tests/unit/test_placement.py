"""Which worker gets a job, and why another does not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.core.placement import Load, choose, could_ever, why_not
from trusted_pool.core.request import Capacity, Gpu, Request, fitting_gpus, obstacles, shape_of
from trusted_pool.core.retry import LONGEST_S, backoff_s
from trusted_pool.core.words import Duty, WorkerHealth
from trusted_pool.core.worker import CLAIMED_OFFER, Worker, heard, silent

WANTS = Request(interpreter="python3")
TWO_GPUS = (Gpu(index=0, memory_mb=16_000), Gpu(index=1, memory_mb=8_000))


def worker(name: str = "w", **changes: object) -> Worker:
    fields: dict[str, object] = {"worker_id": name, "endpoint": f"https://{name}:1", "health": WorkerHealth.HEALTHY}
    return Worker(**(fields | changes))


def codes(request: Request, of: Worker, load: Load | None = None) -> set[str]:
    return {o.code for o in why_not(request, of, load or Load())}


def test_the_one_with_fewest_jobs_and_then_the_longest_unused():
    pool = [(worker("a"), Load(active=2)), (worker("b"), Load(active=1, last_used=9)), (worker("c"), Load(active=1))]
    assert [w.worker_id for w in [choose(WANTS, pool)] if w] == ["c"]
    assert choose(WANTS, []) is None


@pytest.mark.parametrize(
    ("changes", "load", "code"),
    [
        ({"health": WorkerHealth.SUSPECT}, Load(), "health"),
        ({"duty": Duty.CORDONED}, Load(), "duty"),
        ({"duty": Duty.DRAINING}, Load(), "duty"),
        ({"max_concurrent_jobs": 1}, Load(active=1), "slots"),
        ({"capacity": Capacity(memory_mb=600)}, Load(active=1, memory_mb=512), "memory_taken"),
    ],
)
def test_no_capacity_now_is_not_impossible(changes: dict[str, object], load: Load, code: str):
    found = why_not(WANTS, worker(**changes), load)
    assert [(o.code, o.impossible) for o in found] == [(code, False)]
    assert could_ever(WANTS, [worker(**changes)])


@pytest.mark.parametrize(
    ("request_changes", "capacity", "code"),
    [
        ({"interpreter": "node"}, Capacity(interpreters={"python3": "3"}), "interpreter"),
        ({"memory_mb": 2000}, Capacity(memory_mb=1999), "memory"),
        ({"cpus": 2.5}, Capacity(cpus=2), "cpus"),
        ({"disk_mb": 5000}, Capacity(disk_mb=1), "disk"),
        ({"gpus": 1}, Capacity(gpus=()), "gpus"),
        ({"gpus": 2}, Capacity(gpus=TWO_GPUS[:1]), "gpus"),
        ({"gpus": 2, "gpu_memory_mb": 9000}, Capacity(gpus=TWO_GPUS), "gpus"),
        ({"gpus": 1, "gpu_device": 2}, Capacity(gpus=TWO_GPUS), "gpus"),
        ({"gpus": 1, "cuda": "12.4"}, Capacity(gpus=TWO_GPUS, cuda="12.2"), "cuda"),
        ({"gpus": 1, "cuda": "11"}, Capacity(gpus=TWO_GPUS), "cuda"),
        ({"binds": ("imagenet",)}, Capacity(binds=("other",)), "bind"),
        ({"binds": ("imagenet",)}, CLAIMED_OFFER, "bind"),
        ({"gpus": 1}, CLAIMED_OFFER, "gpus"),
        ({"isolation": 3}, Capacity(isolation=2), "isolation"),
        ({"environment": "ml"}, Capacity(), "environment"),
        ({"labels": {"zone": "x"}}, Capacity(labels={"zone": "y"}), "label"),
        ({"workers": ("other",)}, Capacity(), "other_worker"),
        ({"refused_by": ("w",)}, Capacity(), "refused"),
    ],
)
def test_impossible_here(request_changes: dict[str, object], capacity: Capacity, code: str):
    request = msgspec.structs.replace(WANTS, **request_changes)
    found = obstacles(request, capacity, "w")
    assert [(o.code, o.impossible) for o in found] == [(code, True)]
    assert not could_ever(request, [worker(capacity=capacity)])


def test_what_a_worker_has_not_said_is_no_obstacle():
    wants = Request(interpreter="ruby", memory_mb=10**6, cpus=99, disk_mb=10**6, isolation=3)
    assert obstacles(wants, Capacity(), "w") == []


def test_slots_are_the_workers_capped_by_the_allowlist_else_four():
    assert worker().slots == 4
    assert worker(max_concurrent_jobs=9).slots == 9
    assert worker(capacity=Capacity(slots=2)).slots == 2
    assert worker(capacity=Capacity(slots=8), max_concurrent_jobs=3).slots == 3


def test_the_allowlists_labels_win():
    of = worker(labels={"zone": "a"}, capacity=Capacity(labels={"zone": "b", "disk": "ssd"}))
    assert of.offer.labels == {"zone": "a", "disk": "ssd"}


def test_memory_of_running_jobs_counts_and_an_idle_worker_takes_its_largest():
    of = worker(capacity=Capacity(memory_mb=1000))
    load = Load()
    load.take(Request(interpreter="python3", memory_mb=900), 1)
    assert codes(Request(interpreter="python3", memory_mb=101), of, load) == {"memory_taken"}
    assert codes(Request(interpreter="python3", memory_mb=100), of, load) == set()


def test_a_silent_worker_is_suspect_then_lost_and_healthy_when_it_answers():
    of = silent(worker(), "no", 120, now=10.0)
    assert (of.health, of.silent_since) == (WorkerHealth.SUSPECT, 10.0)
    assert silent(of, "no", 120, now=129.0).health is WorkerHealth.SUSPECT
    of = silent(of, "no", 120, now=130.0)
    assert of.health is WorkerHealth.LOST
    of = heard(of, Capacity(slots=1), "1", 140.0)
    assert (of.health, of.silent_since, of.words) == (WorkerHealth.HEALTHY, None, "")


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_backoff_grows_and_is_bounded(times: int, jitter: float):
    assert 0.5 <= backoff_s(times, jitter) <= LONGEST_S
    assert backoff_s(times, 0.0) <= backoff_s(times + 1, 0.0)


requests = st.builds(
    Request,
    interpreter=st.sampled_from(["python3", "node"]),
    memory_mb=st.sampled_from([512, int("512"), 1024]),
    cpus=st.sampled_from([1, 1.0, 2]),
    labels=st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy")),
)


@given(requests, requests)
def test_equal_requests_are_of_one_shape_and_others_are_not(one: Request, other: Request):
    assert (shape_of(one) == shape_of(other)) == (one == other)
    again = msgspec.json.decode(msgspec.json.encode(one), type=Request)
    assert shape_of(again) == shape_of(one)


loads = st.builds(Load, active=st.integers(0, 5), last_used=st.integers(0, 5))


@given(st.lists(loads, min_size=1, max_size=5))
def test_the_chosen_one_is_able_and_nobody_able_has_fewer(found: list[Load]):
    pool = [(worker(f"w{n}"), load) for n, load in enumerate(found)]
    able = {w.worker_id: load for w, load in pool if not why_not(WANTS, w, load)}
    chosen = choose(WANTS, pool)
    assert (chosen is None) == (not able)
    if chosen is not None:
        best = able[chosen.worker_id]
        assert all((best.active, best.last_used) <= (o.active, o.last_used) for o in able.values())


def test_gpus_are_promised_to_as_many_jobs_as_there_are():
    wants = msgspec.structs.replace(WANTS, gpus=1, binds=("imagenet",), cuda="12.0")
    has = worker(capacity=Capacity(slots=4, gpus=TWO_GPUS, cuda="12.2", binds=("imagenet", "other")))
    load = Load()
    for tick in range(2):
        assert not why_not(wants, has, load)
        load.take(wants, tick)
    assert [(o.code, o.impossible) for o in why_not(wants, has, load)] == [("gpus_taken", False)]
    assert not why_not(WANTS, has, load)
    load.free(wants)
    assert not why_not(wants, has, load)


def test_the_smallest_gpu_that_fits_comes_first():
    capacity = Capacity(gpus=TWO_GPUS)
    assert fitting_gpus(msgspec.structs.replace(WANTS, gpus=1), capacity) == [1, 0]
    assert fitting_gpus(msgspec.structs.replace(WANTS, gpus=1, gpu_memory_mb=8_001), capacity) == [0]
    assert fitting_gpus(msgspec.structs.replace(WANTS, gpus=1, gpu_device=0), capacity) == [0]


def test_what_a_worker_has_not_said_of_its_equipment_is_no_obstacle():
    wants = msgspec.structs.replace(WANTS, gpus=8, gpu_device=None, binds=("imagenet",), cuda="99")
    assert obstacles(wants, Capacity(), "w") == []


def test_shapes_that_ask_for_no_equipment_are_named_as_before_there_was_any():
    assert shape_of(Request(interpreter="python3")) == "f8c2398f56340747"
    others = [{"binds": ("a",)}, {"gpus": 1}, {"gpus": 1, "gpu_device": 0}, {"gpus": 1, "cuda": "12"}]
    shapes = {shape_of(msgspec.structs.replace(WANTS, **changes)) for changes in others}
    assert len(shapes | {shape_of(WANTS)}) == 5
