"""Workers that run a stage's tasks: processes of our own, those of an existing cluster or, for a few tasks, this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline_lib.config.data import WorkersConfig
from pipeline_lib.store.store import Store

if TYPE_CHECKING:  # 0.5 s of imports that a stage with few tasks does without
    from distributed import Client

    from pipeline_lib.runtime.shared_cluster import Fitness

Task = tuple[Any, ...]
HERE = WorkersConfig(workers=1)  # one process: this one


class Workers:
    """Runs a stage's tasks, each at least once: a task gets paths and configs, and returns text.

    Args:
        config: of the processes.
        client: of the cluster; None: tasks run in this process, one after another.
        fitness: what each worker must find, where they are not ours.
    """

    def __init__(self, config: WorkersConfig, client: Client | None = None, fitness: Fitness | None = None) -> None:
        self.config = config
        self.client = client
        self.fitness = fitness

    def run(
        self,
        function: Callable[..., Any],
        tasks: Iterable[Task],
        on_result: Callable[[int, Any], None],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """Run `function(*task)` for each task; see `cluster.run_tasks`; `Killed` may be among the results."""
        if self.client is None:
            for index, task in enumerate(tasks):
                on_result(index, function(*task))
                tick()
            return

        if self.fitness is not None:
            from pipeline_lib.runtime.shared_cluster import on_fit_worker

            fitness, inner, function = self.fitness, function, on_fit_worker
            tasks = ((fitness, inner, *task) for task in tasks)
        from pipeline_lib.runtime.cluster import run_tasks

        run_tasks(self.client, function, tasks, on_result, tick, self.config.worker_wait_seconds)

    def run_all(
        self,
        stage: str,
        function: Callable[..., str],
        tasks: Iterable[Task],
        on_result: Callable[[int, str], None],
    ) -> None:
        """Run all tasks as `run` does, none of which may be left out.

        Raises:
            RuntimeError: one killed each worker that it was given to.
        """

        def take(index: int, result: object) -> None:
            if not isinstance(result, str):
                limit = self.config.worker_memory_bytes
                raise RuntimeError(
                    f"{stage}: task {index} killed its workers, which may use {limit:,} bytes each; raise"
                    " extract.worker_memory_bytes, or set extract.workers to 1 to run it without a limit"
                )
            on_result(index, result)

        self.run(function, tasks, take)


@contextmanager
def gathered(config: WorkersConfig, store: Store, tasks: int, places: Sequence[str] = ()) -> Iterator[Workers]:
    """A cluster for that many tasks, gone when the work is done; see `local_cluster` and `existing_cluster`.

    Args:
        store: whose root the workers of an existing cluster must see.
        places: files or folders that they must see too.
    """
    if config.scheduler:
        from pipeline_lib.runtime.shared_cluster import existing_cluster

        given = (config.scheduler, store.place, places, config.worker_wait_seconds)
        with existing_cluster(*given) as (client, fitness):
            yield Workers(config, client, fitness)
        return

    from pipeline_lib.runtime.cluster import local_cluster, worker_count

    with local_cluster(worker_count(config.workers, tasks), config.worker_memory_bytes) as client:
        yield Workers(config, client)


@contextmanager
def where_it_pays(config: WorkersConfig, store: Store, tasks: int, is_much: bool) -> Iterator[Workers]:
    """Workers as `gathered` gives them where there is much to do for more than one process; else this process."""
    if is_much and tasks > 1 and (config.scheduler or config.workers != 1):
        with gathered(config, store, tasks) as workers:
            yield workers
    else:
        yield Workers(config)
