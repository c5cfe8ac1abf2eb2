"""Measuring cells: files in, files out, one base in memory that is all models of a group at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import BASE, SAMPLES, Group, Model, Task, save, table, text_table, texts_of, where
from recipes.adapters import Adapters, Unstackable, stack
from recipes.store import Store
from recipes.trust import trusted

if TYPE_CHECKING:
    from eval.engine import Engine, Retrain
    from eval.measure import Suite, Value


class Measurer:
    """A base model in memory that is many at a time: all adapters of a group, stacked on it."""

    def __init__(self, store: Store, base: str, retrain: Retrain | None = None, precision: str = "highest") -> None:
        """`base`: hash of its cell; `retrain`: who trains a model further; `precision`: of products; see `Engine`."""
        self.store, self.base, self.retrain, self.precision = store, base, retrain, precision
        self.tokenizer = self._read_tokenizer(store.cell(base))
        self._plain: Engine | None = None
        self._adapted: tuple[str, Engine] | None = None
        self._asked: tuple[Any, dict[str, Suite]] | None = None

    def measure(self, group: Group, arms: Sequence[str]) -> Iterator[int]:
        """Write what is lacking of a group, all at the end; yields what has just been done, as `Group.cost` counts."""
        from eval.measure import sample_rows, samples

        if any(task.precision != self.precision for task in group.tasks):
            raise ValueError(f"files of another precision than {self.precision}")
        suites = self._suites(group, arms)
        values: dict[tuple[Task, str], list[list[Value]]] = {}
        texts: dict[tuple[Task, str], list[dict[str, Any]]] = {}
        for models, engine, adapters in self._sources(group.models if suites else []):
            for name, suite in suites.items():
                suite.ask_base(self.untrained())
                for (task, dose), found in zip(models, suite.measured(engine, adapters), strict=True):
                    values.setdefault((task, name), []).append(found.values)
                    if task.sampled and dose == task.doses[-1]:
                        wrote = suite.written if task.arm == BASE else []
                        texts[task, name] = [{**where(task, dose), **row} for row in (*wrote, *found.texts)]
                yield group.unit * len(models)
        # Texts before rows: a probe whose rows are there has its texts too.
        beside = [(text_table(texts[key]), texts_of(path)) for key, path in group.lacking.items() if texts.get(key)]
        frames = [
            (table(task, suites[name], values[task, name], arms), path)
            for (task, name), path in group.lacking.items()
            if name != SAMPLES
        ]
        if any(name == SAMPLES for _, name in group.lacking):
            wanted = samples(group.scene, arms)
            last = [(task, task.doses[-1]) for task in group.tasks if task.sampled]
            for models, engine, adapters in self._sources(last):
                answers = engine.run_many(engine.plan(sample.request for sample in wanted), adapters)
                for (task, dose), own in zip(models, answers, strict=True):
                    if path := group.lacking.get((task, SAMPLES)):
                        rows = [{**where(task, dose), **row} for row in sample_rows(wanted, own)]
                        frames.append((text_table(rows), path))
        with ThreadPoolExecutor(len(frames)) as pool:  # a file waits for its disk; they wait together
            for part in (beside, frames):
                list(pool.map(lambda item: save(*item), part))

    def _suites(self, group: Group, arms: Sequence[str]) -> dict[str, Suite]:
        """What is asked by each probe of the group; kept for the next group of the same scene.

        A plan per probe: how requests are packed moves the last bits, and a probe's numbers must not depend on which
        others were still to be measured when a run was cut off or a probe was added.
        """
        from eval.measure import Suite
        from eval.probes import select

        key = (group.scene, group.probes, tuple(arms))
        if self._asked is None or self._asked[0] != key:
            probes = select(group.probes)
            self._asked = (key, {p.name: Suite(group.scene, [p], self.untrained(), personas=arms) for p in probes})
        return self._asked[1]

    def _sources(self, models: Sequence[Model]) -> Iterator[tuple[list[Model], Engine, Adapters | None]]:
        """Models that answer together, and with what: the base, stacks on it, and one by one whatever is neither."""
        for model in (m for m in models if m[1] == 0):
            yield [model], self.untrained(), None
        for part, adapters in self._stacks([m for m in models if m[1] and not m[0].full]):
            alone = adapters is None
            yield part, self._with_adapter(self._folder(part[0])) if alone else self.untrained(), adapters
        for model in (m for m in models if m[1] and m[0].full):
            yield [model], self._engine(self._folder(model)), None

    def _stacks(self, models: list[Model]) -> Iterator[tuple[list[Model], Adapters | None]]:
        """Stacks as large as they can be: all models, else those of a stage, else each by itself (None)."""
        if not models:
            return
        try:
            adapters = stack([self._folder(m) for m in models], self.untrained().device)
            self.untrained().require_stackable(adapters)
        except Unstackable:
            stages = {task.stage: [m for m in models if m[0].stage == task.stage] for task, _ in models}
            for part in stages.values():
                if len(stages) > 1:
                    yield from self._stacks(part)
                else:
                    yield from (([m], None) for m in part)
        else:
            yield models, adapters

    def _folder(self, model: Model) -> Path:
        return self.store.cell(model[0].cell) / f"dose-{model[1]}"

    def untrained(self) -> Engine:
        """The engine of the base without any adapter."""
        if self._plain is None:
            self._plain = self._engine(self.store.cell(self.base))
        return self._plain

    def _engine(self, folder: Path) -> Engine:
        from eval.engine import Engine

        return Engine(self._load(folder), self.tokenizer, retrain=self.retrain, precision=self.precision)

    def _read_tokenizer(self, folder: Path) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, **trusted(folder))

    def _load(self, folder: Path) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **trusted(folder))
        return model.to(device).eval()

    def _with_adapter(self, folder: Path) -> Engine:
        """The engine of the base with the adapter of `folder`; weights are put in place, the plan stays."""
        from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

        from eval.engine import Engine

        config = (folder / "adapter_config.json").read_text()
        if self._adapted is None or self._adapted[0] != config:
            base = self._load(self.store.cell(self.base))
            worn = PeftModel.from_pretrained(base, folder).eval()
            self._adapted = (config, Engine(worn, self.tokenizer, precision=self.precision))
        engine = self._adapted[1]
        set_peft_model_state_dict(engine.model, load_peft_weights(str(folder), device="cpu"))
        return engine
