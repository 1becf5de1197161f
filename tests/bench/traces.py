"""
Jobs as they behave on GPU nodes, each with what a sensible operator would want said about it.

A kind is a function; its text says what happens and why mail is wanted or not. The labels were
written from that alone, before any rule had been run on them, and stay as they are whatever a rule
makes of them: a miss is printed, not explained away. Each kind is drawn several times with another
seed, so that lengths, loads and moments vary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

SEED = 20_260_302
GIB = 1 << 30


@dataclass(frozen=True)
class Want:
    """
    What the operator wants.

    Attributes:
        by: a mail by then, in hours after the job's start; None: no mail at all.
        alerts: which of them tell what is the matter.
    """

    by: float | None = None
    alerts: frozenset[str] = frozenset()


NO_MAIL = Want()


def mail(by: float, *alerts: str) -> Want:
    return Want(by, frozenset(f"Jobwatt{alert}" for alert in alerts))


Use = Callable[[float, int], float | None]  # hours since the start, GPU -> 0 ... 1, None: unknown
Level = Callable[[float], float]


@dataclass
class Plan:
    """
    One job (or a row of jobs, one after the other) and its node.

    Attributes:
        use: utilisation of each GPU held; ``memory``: what it holds on each, GiB.
        cpu: cores in use; ``ram``: GiB in use.
        sm: SM activity over utilisation; None: a GPU that does not tell (before Hopper).
        limit: the time limit, hours; 0: none told.
        repeat, gap: this many jobs one after the other, ``gap`` hours apart.
        unseen: scrapes that fail, from and to, hours; ``restarts``: the exporter's.
        apart: GPUs of this job that are on a second node.
    """

    hours: float
    use: Use
    gpus: int = 1
    memory: Level = lambda _: 20.0
    cpu: Level = lambda _: 2.0
    ram: float = 24.0
    cpus: int = 8
    ram_limit: float = 64.0
    node_gpus: int = 4
    node_cpus: int = 64
    node_ram: float = 512.0
    partition: str = "gpu"
    sm: float | None = 0.6
    limit: float = 0.0
    mig: bool = False
    repeat: int = 1
    gap: float = 0.0
    exit: tuple[str, str] = ("COMPLETED", "0:0")
    unseen: tuple[tuple[float, float], ...] = ()
    restarts: tuple[float, ...] = ()
    apart: int = 0


@dataclass(frozen=True)
class Trace:
    """A plan with its name, its owner and its label. ``start``: hours after the beginning of all."""

    kind: str
    number: int
    user: str
    plan: Plan
    want: Want
    start: float

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number}"


@dataclass(frozen=True)
class Kind:
    name: str
    count: int
    why: str
    draw: Callable[[Random], tuple[Plan, Want]]
    one_user: bool = False
    alike: bool = field(default=False)


KINDS: list[Kind] = []


def kind(
    count: int, *, one_user: bool = False
) -> Callable[[Callable[[Random], tuple[Plan, Want]]], None]:
    """Add a kind, drawn ``count`` times; ``one_user``: the draws are tasks of one user's array."""

    def add(draw: Callable[[Random], tuple[Plan, Want]]) -> None:
        name = draw.__name__.strip("_").replace("_", "-")
        KINDS.append(Kind(name, count, " ".join((draw.__doc__ or "").split()), draw, one_user))

    return add


def traces() -> Iterator[Trace]:
    """All of them; the same every time."""
    for one in KINDS:
        together = Random(f"{SEED}/{one.name}").uniform(0, 2)
        for number in range(1, one.count + 1):
            rng = Random(f"{SEED}/{one.name}/{number}")
            plan, want = one.draw(rng)
            user = one.name if one.one_user else f"{one.name}-{number}"
            start = together if one.one_user else rng.uniform(0, 2)
            yield Trace(one.name, number, user, plan, want, start)


# --- building blocks -----------------------------------------------------------------------------


def steady(rng: Random, mean: float, spread: float = 0.03) -> Use:
    return lambda _h, _g: min(max(rng.gauss(mean, spread), 0.01), 1.0)


def idle(_h: float, _g: int) -> float:
    return 0.0


def until(end: float, use: Use, after: Use = idle) -> Use:
    return lambda h, g: use(h, g) if h < end else after(h, g)


def pausing(use: Use, every: float, pause: float, offset: float = 0.0) -> Use:
    """``pause`` hours of rest in every ``every`` hours."""
    return lambda h, g: 0.0 if (h + offset) % every < pause else use(h, g)


def held_until(end: float, gib: float) -> Level:
    return lambda h: gib if h < end else 0.0


# --- jobs that work ------------------------------------------------------------------------------


@kind(10)
def training(rng: Random) -> tuple[Plan, Want]:
    """A network is trained at 85-99 % on 1-8 GPUs. That is what GPUs are for: nothing to say."""
    gpus = rng.choice([1, 1, 2, 4, 8])
    use = steady(rng, rng.uniform(0.85, 0.99))
    plan = Plan(rng.uniform(6, 9), use, gpus, cpus=8 * gpus, ram_limit=60.0 * gpus, node_gpus=8)
    plan.cpu, plan.node_cpus, plan.sm = (lambda _: 3.0 * gpus), 96, rng.choice([0.5, 0.7, None])
    return plan, NO_MAIL


@kind(8)
def checkpointing(rng: Random) -> tuple[Plan, Want]:
    """Training that stops for 3-10 minutes every hour to write its state: part of the work."""
    use = pausing(steady(rng, 0.92), rng.uniform(0.8, 1.3), rng.uniform(0.05, 0.17), rng.random())
    return Plan(rng.uniform(6, 8), use, rng.choice([1, 4]), cpus=16), NO_MAIL


@kind(4)
def long_checkpoints(rng: Random) -> tuple[Plan, Want]:
    """25-45 minutes without the GPU every three hours (state of a large model to slow storage, tests
    on CPUs). Not pretty, but the job goes on by itself; a person asked would only say so."""
    use = pausing(steady(rng, 0.9), 3.0, rng.uniform(0.42, 0.75), 1.0)
    return Plan(9.0, use, 4, cpus=32), NO_MAIL


@kind(5)
def evaluation(rng: Random) -> tuple[Plan, Want]:
    """Two minutes on the GPU, six to eight on CPUs, for hours: a loop of inference and scoring. The GPU is
    used all the time in small pieces and could not be given away in between: no mail."""
    use = pausing(steady(rng, 0.95), 0.15, rng.uniform(0.10, 0.115))
    return Plan(rng.uniform(6, 8), use, cpu=lambda _: 4.0), NO_MAIL


@kind(6)
def compiling(rng: Random) -> tuple[Plan, Want]:
    """35-50 minutes of building, unpacking and compiling before the first kernel, then training. It is
    not waste that a mail could stop: it is over before anybody reads it."""
    begin = rng.uniform(0.58, 0.83)
    use = until(begin, idle, steady(rng, 0.93))
    return Plan(
        rng.uniform(5, 7), use, rng.choice([1, 2]), cpu=lambda h: 7.5 if h < begin else 2.0
    ), NO_MAIL


@kind(4)
def waiting_once(rng: Random) -> tuple[Plan, Want]:
    """In the middle the job waits 40-50 minutes (a licence, a file from another job), then goes on."""
    stop, wait = rng.uniform(2, 3), rng.uniform(0.66, 0.83)
    work = steady(rng, 0.9)
    return Plan(7.0, lambda h, g: 0.0 if stop <= h < stop + wait else work(h, g)), NO_MAIL


@kind(5)
def modest(rng: Random) -> tuple[Plan, Want]:
    """A simulation with 25-40 % utilisation all the time: a smaller GPU might do, but it is use."""
    return Plan(rng.uniform(6, 8), steady(rng, rng.uniform(0.25, 0.4)), sm=0.5), NO_MAIL


@kind(5)
def loading_a_little(rng: Random) -> tuple[Plan, Want]:
    """60-75 % on the GPU, data loaders at 80 % of the cores: could be better, is not worth a mail."""
    use = steady(rng, rng.uniform(0.6, 0.75), 0.1)
    return Plan(rng.uniform(6, 8), use, cpus=8, cpu=lambda _: 6.4), NO_MAIL


@kind(12, one_user=True)
def array_training(rng: Random) -> tuple[Plan, Want]:
    """A hyper-parameter search: tasks of 1-3 hours at 70-95 %. Nothing to say."""
    return Plan(rng.uniform(1, 3), steady(rng, rng.uniform(0.7, 0.95))), NO_MAIL


@kind(8)
def notebook_in_use(rng: Random) -> tuple[Plan, Want]:
    """A person at a notebook: a few minutes of GPU now and then, pauses to think of up to 50 minutes, an
    hour and a half for lunch. Interactive work is like that; the person is there."""
    work = steady(rng, 0.6, 0.2)
    every, part = rng.uniform(0.5, 0.9), rng.uniform(0.05, 0.2)
    lunch = rng.uniform(3, 4)

    def use(h: float, g: int) -> float | None:
        return 0.0 if lunch <= h < lunch + 1.5 or h % every > part else work(h, g)

    return Plan(8.0, use, partition="interactive", cpus=4, cpu=lambda _: 0.3), NO_MAIL


@kind(8)
def short_and_unused(rng: Random) -> tuple[Plan, Want]:
    """A job of 5-40 minutes that never uses its GPU: over before a mail could help."""
    return Plan(rng.uniform(0.08, 0.66), idle, memory=lambda _: 0.0), NO_MAIL


@kind(3)
def short_jobs_that_work(rng: Random) -> tuple[Plan, Want]:
    """Thirty jobs of two minutes, one after the other, all successful: many, but they do their work."""
    return Plan(rng.uniform(0.03, 0.05), steady(rng, 0.7), repeat=30, gap=0.02), NO_MAIL


@kind(3)
def near_the_limit_at_work(rng: Random) -> tuple[Plan, Want]:
    """Trains until its time limit ends it: it will be resumed from a checkpoint, as planned."""
    return Plan(6.0, steady(rng, 0.9), limit=6.0, exit=("TIMEOUT", "0:15")), NO_MAIL


@kind(3)
def many_cores_in_use(rng: Random) -> tuple[Plan, Want]:
    """48 of 64 cores with one of four GPUs, and all of them used: the job needs them."""
    return Plan(
        6.0, steady(rng, 0.7), cpus=48, cpu=lambda _: 42.0, ram=300.0, ram_limit=400.0
    ), NO_MAIL


@kind(4)
def shell_in_a_batch_partition(rng: Random) -> tuple[Plan, Want]:
    """`srun --pty bash` in the ordinary partition: somebody works at it, and goes to lunch for 70-90
    minutes. Nothing tells that it is interactive; to the person at it a mail would be a nuisance."""
    lunch, away = rng.uniform(2, 3), rng.uniform(1.17, 1.5)
    work = pausing(steady(rng, 0.6, 0.2), 0.3, 0.15)
    plan = Plan(
        7.0, lambda h, g: 0.0 if lunch <= h < lunch + away else work(h, g), cpu=lambda _: 0.5
    )
    return plan, NO_MAIL


@kind(3)
def staging_first(rng: Random) -> tuple[Plan, Want]:
    """80-100 minutes of copying and unpacking data before the first kernel, then seven hours of training:
    better in a job of its own, but the user will not stop it for a mail."""
    begin = rng.uniform(1.33, 1.67)
    return Plan(
        begin + 7, until(begin, idle, steady(rng, 0.9)), cpu=lambda h: 3.0 if h < begin else 2.0
    ), NO_MAIL


# --- what nobody can know ------------------------------------------------------------------------


@kind(5)
def mig_without_figures(rng: Random) -> tuple[Plan, Want]:
    """A MIG slice of which the driver tells no utilisation (A100): unknown is not idle."""
    return Plan(rng.uniform(6, 8), lambda _h, _g: None, mig=True, sm=None), NO_MAIL


@kind(4)
def training_unseen(rng: Random) -> tuple[Plan, Want]:
    """Trains, but for two hours no scrape gets through: no data is no reason for a mail to its owner."""
    gone = rng.uniform(2, 4)
    return Plan(8.0, steady(rng, 0.9), unseen=((gone, gone + 2),)), NO_MAIL


@kind(3)
def training_with_restarts(rng: Random) -> tuple[Plan, Want]:
    """Trains while the exporter is restarted three times: the job has nothing to do with that."""
    return Plan(7.0, steady(rng, 0.9), restarts=(1.5, 3.0 + rng.random(), 5.0)), NO_MAIL


# --- GPUs that nobody uses -----------------------------------------------------------------------


@kind(8)
def crashed_at_start(rng: Random) -> tuple[Plan, Want]:
    """The program died at once (a missing module, a wrong path), a shell or a sleep keeps the allocation.
    Half of them touched the GPU for 10-20 seconds first. Wanted within two and a half hours."""
    blip = rng.choice([0.0, rng.uniform(10, 20) / 3600])
    use = until(blip, steady(rng, 0.4))
    plan = Plan(
        rng.uniform(6, 9), use, rng.choice([1, 2, 4]), memory=lambda _: 0.0, cpu=lambda _: 0.01
    )
    return plan, mail(2.5, "GPUNeverUsed", "GPUIdle")


@kind(6)
def preparing_on_a_gpu_node(rng: Random) -> tuple[Plan, Want]:
    """Hours of CPU work (tokenising, decoding) with a GPU held that is never used: it belongs on a CPU
    node. Wanted within two and a half hours."""
    plan = Plan(rng.uniform(5, 8), idle, memory=lambda _: 0.0, cpu=lambda _: 7.8)
    return plan, mail(2.5, "GPUNeverUsed")


@kind(8, one_user=True)
def array_crashed(rng: Random) -> tuple[Plan, Want]:
    """An array of which every task hangs without using its GPU: its owner should hear of all, once."""
    return Plan(rng.uniform(4, 6), idle, memory=lambda _: 0.0), mail(2.5, "GPUNeverUsed")


@kind(8)
def died_in_the_middle(rng: Random) -> tuple[Plan, Want]:
    """Works for 2-4 hours, then its processes are gone and the allocation stays. Wanted within two and a
    half hours of that."""
    end = rng.uniform(2, 4)
    plan = Plan(
        end + 5, until(end, steady(rng, 0.9)), rng.choice([1, 2]), memory=held_until(end, 30)
    )
    return plan, mail(end + 2.5, "GPUIdle")


@kind(6)
def hung_with_memory(rng: Random) -> tuple[Plan, Want]:
    """Works for 2-3 hours, then hangs (a dead file system, a lock) with its data on the GPU."""
    end = rng.uniform(2, 3)
    plan = Plan(end + 5, until(end, steady(rng, 0.9)), rng.choice([1, 2]), memory=lambda _: 30.0)
    return plan, mail(end + 2.5, "GPUMemoryHeld", "GPUIdle")


@kind(6)
def notebook_forgotten(rng: Random) -> tuple[Plan, Want]:
    """A notebook used for an hour or two; then its kernel is shut down and the allocation forgotten.
    Interactive work gets patience: wanted within six hours of the last use."""
    end = rng.uniform(1, 2)
    plan = Plan(end + 9, until(end, steady(rng, 0.5, 0.2)), memory=held_until(end, 10))
    plan.partition, plan.cpus, plan.cpu = "interactive", 4, lambda _: 0.05
    return plan, mail(end + 6, "GPUIdle")


@kind(6)
def notebook_forgotten_with_memory(rng: Random) -> tuple[Plan, Want]:
    """The same with the kernel alive and its tensors on the GPU: nobody else could use it either."""
    end = rng.uniform(1, 2)
    plan = Plan(end + 9, until(end, steady(rng, 0.5, 0.2)), memory=lambda _: 10.0)
    plan.partition, plan.cpus, plan.cpu = "interactive", 4, lambda _: 0.05
    return plan, mail(end + 6, "GPUMemoryHeld")


@kind(4)
def notebook_never_used(rng: Random) -> tuple[Plan, Want]:
    """A notebook with a GPU for somebody who edits text. Wanted within six hours."""
    plan = Plan(rng.uniform(9, 11), idle, memory=lambda _: 0.0, partition="interactive", cpus=4)
    return plan, mail(6, "GPUNeverUsed")


@kind(8)
def one_of_four(rng: Random) -> tuple[Plan, Want]:
    """Four GPUs asked for, a program that uses one. Wanted within four hours."""
    work = steady(rng, 0.95)
    plan = Plan(rng.uniform(6, 9), lambda h, g: work(h, g) if g == 0 else 0.0, 4, cpus=32)
    return plan, mail(4, "SomeGPUsIdle")


@kind(3)
def one_node_of_two(rng: Random) -> tuple[Plan, Want]:
    """Two nodes with four GPUs each, and the program was started on the first only."""
    work = steady(rng, 0.95)
    plan = Plan(rng.uniform(6, 8), lambda h, g: work(h, g) if g < 4 else 0.0, 4, cpus=32, apart=4)
    return plan, mail(4, "SomeGPUsIdle")


@kind(5)
def done_before_the_limit(rng: Random) -> tuple[Plan, Want]:
    """Finished an hour or so before the time limit, and sleeps until it strikes. The time could still be
    given back: wanted before the end."""
    limit = rng.uniform(6, 8)
    end = limit - rng.uniform(0.95, 1.15)
    plan = Plan(limit, until(end, steady(rng, 0.9)), limit=limit, memory=held_until(end, 20))
    plan.exit = ("TIMEOUT", "0:15")
    return plan, mail(limit - 0.1, "IdleNearTimeLimit", "GPUIdle")


@kind(4)
def kept_awake(rng: Random) -> tuple[Plan, Want]:
    """Idle, but for ten seconds of some kernel every half hour (a script that fools the watchman, or a
    probe). In effect the GPU is free: wanted within six hours."""
    use = pausing(steady(rng, 0.05, 0.01), 0.5, 0.5 - 10 / 3600)
    return Plan(10.0, use, cpu=lambda _: 0.02), mail(6, "GPUIdle", "LowGPUUse", "GPUMemoryHeld")


@kind(3)
def idle_unseen(rng: Random) -> tuple[Plan, Want]:
    """Never uses its GPU, and for 40 minutes no scrape gets through. Later than else, but wanted."""
    gone = rng.uniform(0.3, 1.0)
    plan = Plan(9.0, idle, memory=lambda _: 0.0, unseen=((gone, gone + 0.66),))
    return plan, mail(5, "GPUNeverUsed", "GPUIdle")


@kind(3)
def idle_with_restarts(rng: Random) -> tuple[Plan, Want]:
    """Never uses its GPU, and the exporter is restarted once an hour for a while."""
    plan = Plan(9.0, idle, memory=lambda _: 0.0, restarts=(0.7, 1.7 + 0.2 * rng.random(), 2.7))
    return plan, mail(5, "GPUNeverUsed", "GPUIdle")


# --- GPUs used badly -----------------------------------------------------------------------------


@kind(8)
def starved(rng: Random) -> tuple[Plan, Want]:
    """The GPU works 10-35 % of the time and waits for data; the job's cores are all at their limit. One
    line in a data loader or a few more cores would help: wanted within five hours."""
    use = steady(rng, rng.uniform(0.1, 0.35), 0.08)
    cpus = rng.choice([4, 8])
    return Plan(rng.uniform(7, 9), use, cpus=cpus, cpu=lambda _: 0.975 * cpus), mail(
        5, "GPUStarved"
    )


@kind(6)
def low_use(rng: Random) -> tuple[Plan, Want]:
    """2-8 % utilisation for hours with idle CPUs: a toy on a large GPU. Wanted within six hours."""
    use = steady(rng, rng.uniform(0.02, 0.08), 0.01)
    return Plan(rng.uniform(8, 10), use, sm=rng.choice([0.3, 0.5, None]), cpu=lambda _: 1.0), mail(
        6, "LowGPUUse"
    )


@kind(4)
def idle_server(rng: Random) -> tuple[Plan, Want]:
    """A model served to nobody: ten seconds of work every two to three minutes. A shared or a smaller
    GPU would do: wanted within six hours."""
    every = rng.uniform(120, 180) / 3600
    use = pausing(steady(rng, 0.3), every, every - 10 / 3600)
    return Plan(10.0, use, sm=0.4, cpu=lambda _: 0.2), mail(6, "LowGPUUse")


@kind(4)
def many_cores_unused(rng: Random) -> tuple[Plan, Want]:
    """One of four GPUs with 48 of the node's 64 cores, of which two work: the other three GPUs can hardly
    be used by anybody. Wanted within five hours."""
    plan = Plan(rng.uniform(6, 8), steady(rng, 0.9), cpus=48, cpu=lambda _: 2.0)
    return plan, mail(5, "TooManyCPUsPerGPU")


@kind(4)
def much_memory_unused(rng: Random) -> tuple[Plan, Want]:
    """One of four GPUs with 400 of 512 GiB of memory, of which 20-40 are used: the same."""
    plan = Plan(rng.uniform(6, 8), steady(rng, 0.9), ram=rng.uniform(20, 40), ram_limit=400.0)
    return plan, mail(5, "TooMuchMemoryPerGPU")


@kind(4)
def failing_in_a_row(rng: Random) -> tuple[Plan, Want]:
    """25 jobs that fail within a minute or two, one after the other (a loop around sbatch). Wanted while
    it goes on: within two hours."""
    plan = Plan(
        rng.uniform(0.015, 0.03),
        idle,
        repeat=25,
        gap=0.03,
        exit=("FAILED", "1:0"),
        memory=lambda _: 0.0,
    )
    return plan, mail(2, "ShortFailingJobs")


# --- what a mail should be about, and utilisation does not tell plainly ---------------------------


@kind(3)
def spinning(rng: Random) -> tuple[Plan, Want]:
    """One rank has died and the others wait for it in a kernel that spins: 100 % utilisation, hardly any
    SM at work, for hours. Wanted within four hours of it."""
    end = rng.uniform(2, 3)
    work = steady(rng, 0.9)
    plan = Plan(end + 7, lambda h, g: work(h, g) if h < end else 1.0, 4, cpus=32, sm=0.02)
    return plan, mail(end + 4, "LowGPUUse", "GPUIdle")


@kind(5)
def waiting_for_storage(rng: Random) -> tuple[Plan, Want]:
    """8-30 % on the GPU with the cores at rest, too: the file system is the bottleneck. Its owner could
    copy the data to the node first. Wanted within six hours."""
    use = steady(rng, rng.uniform(0.08, 0.3), 0.03)
    return Plan(rng.uniform(8, 9), use, cpu=lambda _: 1.2, sm=0.6), mail(
        6, "GPUStarved", "LowGPUUse"
    )


@kind(3)
def lopsided(rng: Random) -> tuple[Plan, Want]:
    """Four GPUs: one at 95 %, the others at 3-6 % (gathering results, a stray process): three of them are
    wasted all the same. Wanted within six hours."""
    work, little = steady(rng, 0.95), steady(rng, rng.uniform(0.03, 0.06), 0.01)
    plan = Plan(9.0, lambda h, g: work(h, g) if g == 0 else little(h, g), 4, cpus=32)
    return plan, mail(6, "SomeGPUsIdle", "LowGPUUse")


@kind(3)
def short_and_unused_in_a_row(rng: Random) -> tuple[Plan, Want]:
    """25 jobs of 15-20 minutes, one after the other, successful, none of which uses its GPU: each is too
    short for a mail, together they are a working day of a GPU. Wanted within six hours."""
    plan = Plan(rng.uniform(0.25, 0.33), idle, repeat=25, gap=0.02, memory=lambda _: 0.0)
    return plan, mail(6, "GPUNeverUsed", "ShortFailingJobs")
