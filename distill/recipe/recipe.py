"""One JSON file holds everything about a run. Its sections are described here; each field says its unit."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from data.cache.targets import Target
from data.hashing import drawn
from data.kinds import FORM, kind_of
from data.mixing import Mix
from data.paths import resolve
from data.prompts import Prompts
from data.rows.faults import FaultPolicies, Lengths
from data.rows.row import Mono
from data.settings import Settings
from distill.losses.settings import LAST, DivergenceSettings, KdSettings, LossWeights, MatchSettings
from distill.recipe.deepspeed_block import require_known, require_usable
from distill.recipe.stages import OnPolicySettings, StageSettings
from student.rounding import RoundedFormat
from student.shrink import StudentSettings
from teacher.cache import CacheSettings
from teacher.hypotheses import GenerationSettings
from teacher.settings import ModelSettings


class DataSettings(Settings):
    """Annotation files; `{cache}` is the cache folder, relative paths start at the repository."""

    train: str = Field(description="rows to train on (and to cache); of shards their folder, or its address")
    source: Literal["files", "shards"] = Field(
        "files", description="where the training rows' sounds lie: in loose files, or in shards (scripts/shard_data.py)"
    )
    buffer_rows: int = Field(
        20_000, ge=1, description="shards: rows that are shuffled and batched among each other, at least"
    )
    valid: tuple[str, ...] = Field((), description="rows watched during training")
    test: dict[str, str] = Field(
        description="held-out annotation by test set, in the order of the pages; a set is named by its kind of score, "
        "asr or aac, and perhaps a name of its own: asr_speakers"
    )
    prompts: Prompts = Field(
        description="each task's instructions, or a JSON file of them (data/prompts.json); the first in tests"
    )
    mix: Mix = Field((), description="how often rows of a corpus or a task are seen in an epoch; empty: all once")
    mono: Mono = Field("first", description="what is heard of several channels: the first, or their mean (mix)")
    lengths: Lengths = Lengths()
    faults: FaultPolicies = FaultPolicies()
    scan: str | None = Field(None, description="what scan_data.py --out wrote of the training rows")
    limit: int | None = Field(None, ge=1, description="use only the first rows of each file (trials and tests)")

    @field_validator("test")
    @classmethod
    def _named_by_kind(cls, test: dict[str, str]) -> dict[str, str]:
        if wrong := [name for name in test if kind_of(name) is None]:
            raise ValueError(f"no test set can be named '{wrong[0]}'; name it {FORM}")
        return test


class HypothesisSettings(Settings):
    """Sequence-level distillation (Kim and Rush 2016): rows trained on what the teacher wrote of the clip.

    A row whose hypothesis is not good enough, is empty, or was cut at the cap keeps the annotation's text, or is left
    out where it has none. Without a reference a hypothesis is judged as pseudo-labels are (Kahn et al. 2020): by how
    sure the teacher is, by its length, and by whether it goes in circles.
    """

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the rows with a text that get the teacher's cached hypothesis instead",
    )
    max_wer: float = Field(0.1, ge=0, description="where it has a WER (asr): the highest")
    min_logp: float = Field(-0.5, le=0, description="where it has none: the lowest mean log-probability of its tokens")
    characters_per_second: tuple[float, float] = Field(
        (0.5, 30.0),
        description="where it has none, of asr: least and most characters a second of sound (kd_mini's transcripts "
        "have 1.0 to 23.4)",
    )
    max_compression: float = Field(
        2.4,
        ge=0,
        description="where it has none: most bytes a byte of what zlib makes of it, as in Whisper (Radford et al. "
        "2022); what repeats itself has more",
    )


class TrainSettings(Settings):
    """The loop."""

    MOVED: ClassVar = {
        "on_policy": "it is a stage's now: train.stages.N.on_policy, {} for all of its steps, or a share of them"
    }

    stages: tuple[StageSettings, ...] = Field(min_length=1)
    kd: KdSettings = KdSettings()
    match: MatchSettings = MatchSettings()
    teacher: Literal["cache", "memory"] = Field(
        "cache",
        description="whence a kd weight has the teacher's distributions of given texts; in memory it is asked at every "
        "step",
    )
    hypotheses: HypothesisSettings = HypothesisSettings()
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, not on biases and norms")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's")
    keep_encoded: bool = Field(False, description="compute a frozen encoder's states once and keep them in memory")
    prefetch: int = Field(
        1, ge=0, description="steps whose batches are made ahead; in as many threads, where train.workers is 0"
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that make a rank's batches, which leave it the interpreter to launch a GPU's operations "
        "with, as threads do not; null: on a GPU its share of the cores but one, at most 4, on a CPU 0",
    )
    compile: bool = Field(
        False,
        description="compile the layers of the speech encoder and the LLM (torch.compile); the first steps of a start "
        "take minutes longer",
    )
    rounded_llm: RoundedFormat | None = Field(
        None,
        description="the layers of the student's LLM compute with weights rounded as a device package stores them "
        "(scripts/export.py --llm), and learn what that costs; the model that is written has them unrounded",
    )
    largest_first: Literal["gpu", "always", "never"] = Field(
        "gpu",
        description="at each start, passes each coming stage's largest micro-batches forward and backward, and learns "
        "nothing: what memory is too small for ends the run then, not hours later; gpu: not on a CPU",
    )
    save_every: int = Field(200, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept; the best one is kept beside them")
    best_by: Literal["wer", "cider_d", "ce"] | None = Field(
        None,
        description="metric of the validation, mean over its sets, that the best checkpoint has; null: wer where there "
        "is speech, else cider_d where there are captions, else ce",
    )
    export: Literal["last", "best"] = Field(
        "last",
        description="checkpoint that the trained model is taken from; the last one by default: the rate has fallen by "
        "then, and validate_clips are few to choose by",
    )
    validate_every: int = Field(200, ge=1, description="steps between validations")
    validate_clips: int = Field(40, ge=0, description="clips of each validation file that are decoded")
    validate_shown: int = Field(8, ge=0, description="of these, how many are shown with their texts and sound")
    elastic: bool = Field(
        False,
        description="a run that has begun may go on with another number of processes: each takes more or fewer "
        "micro-batches of a step (deepspeed.gradient_accumulation_steps counts for the number that it began with)",
    )
    timeout_s: float = Field(1800, gt=0, description="how long a process waits for another one before it ends, seconds")


class EvaluationSettings(Settings):
    """Scoring, and memory and speed, of `scripts/evaluate.py` and `scripts/efficiency.py`."""

    max_unreadable: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of a set's clips that may be unreadable or silent, and count as empty texts; more stop the "
        "scoring (three never do, but at 0)",
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="padded audio seconds of a batch of texts; null: 120; in 16 bits a text may depend on its batch",
    )
    warmup_runs: int = Field(2, ge=0, description="timed runs of each length not counted")
    measured_runs: int = Field(
        10, ge=0, description="timed runs of each length counted; 0: scoring measures neither memory nor speed"
    )


class Recipe(Settings):
    """A whole recipe. Without a student section the teacher itself is trained."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
        max_length=200,  # of a folder's name file systems take 255
        description="names the folders of the run and of its results",
    )
    description: str = Field("", description="what the recipe is for and why it is so, for people")
    runs: str = Field("runs", description="folder that holds runs; relative paths start at the repository")
    results: str = Field("results", description="folder that holds results; relative paths start at the repository")
    seed: int = Field(0, description="seed of data order, dropout and initialisation")
    data: DataSettings
    bf16_on_cpu: Literal["native", "always"] = Field(
        "native",
        description="where a CPU takes teacher.dtype bf16 and deepspeed.bf16: native: if it computes in it, and fp32 "
        "if not, which is faster and takes twice the memory; always",
    )
    teacher: ModelSettings
    student: StudentSettings | None = None
    cache: CacheSettings | None = None
    train: TrainSettings
    generation: GenerationSettings = GenerationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    deepspeed: dict[str, Any] = Field(description="DeepSpeed's own configuration, passed on untouched")

    @field_validator("name")
    @classmethod
    def _not_where_pages_are_published(cls, name: str) -> str:
        if name.split("/")[0] == "published":
            raise ValueError("results/published holds what was published; take another name")
        return name

    @field_validator("deepspeed")
    @classmethod
    def _known_to_deepspeed(cls, block: dict[str, Any]) -> dict[str, Any]:
        require_known(block)
        require_usable(block)
        return block

    @property
    def distils(self) -> bool:
        """Whether a stage holds the student against the teacher's distributions."""
        return any(stage.used.kd for stage in self.train.stages)

    def distils_from_cache(self, stage: StageSettings) -> bool:
        """Whether a stage has the teacher's distributions, of given texts, from its cache."""
        return bool(stage.used.kd and stage.takes_given_texts and self.train.teacher == "cache")

    def asks_teacher(self, stage: StageSettings) -> bool:
        """Whether a stage has the teacher's distributions from a teacher in memory, at some or all of its steps."""
        return bool(stage.used.kd and (stage.on_policy or self.train.teacher == "memory"))

    def divergence_of(self, stage: StageSettings) -> DivergenceSettings:
        """How far teacher and student are apart in a stage."""
        return stage.kd or self.train.kd

    def trained_on(self, stage: StageSettings) -> set[Target]:
        """The texts that rows of a stage may be trained on; none where it asks for none, or the student writes all."""
        if not (stage.used.texts and stage.takes_given_texts):
            return set()
        from_teacher = self.train.hypotheses.share or self.data.faults.no_text == "teacher"
        both = "reference" in stage.targets
        return {name for name in stage.targets if name == "reference" or from_teacher or not both}

    @property
    def trains_on_hypotheses(self) -> bool:
        """Whether a stage trains on the teacher's cached texts."""
        return any("hypothesis" in self.trained_on(stage) for stage in self.train.stages)

    @property
    def trains_on_hypotheses_alone(self) -> bool:
        """Whether a stage trains on nothing but the teacher's cached texts."""
        return any(self.trained_on(stage) == {"hypothesis"} for stage in self.train.stages)

    @property
    def asks_hypotheses(self) -> Literal[False, "untexted", True]:
        """Whether training asks for the teacher's texts of all rows, or of those without a text alone."""
        if self.train.hypotheses.share or self.trains_on_hypotheses_alone:
            return True
        return "untexted" if self.data.faults.no_text == "teacher" else False

    @property
    def trains_from_cache(self) -> bool:
        """Whether training reads the teacher's cache: its distributions, texts or features."""
        from_cache = any(map(self.distils_from_cache, self.train.stages))
        return from_cache or self.trains_on_hypotheses or self.matches_from_cache

    @property
    def matched(self) -> set[str]:
        """The teacher's features that a stage matches."""
        return {name for stage in self.train.stages for name in stage.matched}

    @property
    def matches_from_cache(self) -> bool:
        """Whether the cache has all features that are matched, so that training needs no teacher in memory."""
        if not (self.cache and self.matched and self.matched <= set(self.cache.features)):
            return False
        return "encoder" not in self.matched or all(layer == LAST for _, layer in self.train.match.encoder_layers)

    def in_memory(self, stage: StageSettings) -> Literal["whole", "without_llm"] | None:
        """What of the teacher is in memory beside the student for as long as a stage lasts."""
        if self.asks_teacher(stage) or "hidden" in stage.matched:
            return "whole"
        return "without_llm" if stage.matched and not self.matches_from_cache else None

    @property
    def teacher_in_memory(self) -> bool:
        """Whether a stage has the teacher beside the student, for distributions or for features."""
        return any(map(self.in_memory, self.train.stages))

    @property
    def run_dir(self) -> Path:
        """Checkpoints, logs and the trained model."""
        return resolve(self.runs) / self.name

    @property
    def results_dir(self) -> Path:
        """Tables and plots."""
        return resolve(self.results) / self.name

    @property
    def validation_sets(self) -> dict[str, str]:
        """The files that are watched during training, by the names that they have in the logs."""
        return {Path(path).stem: path for path in self.data.valid}

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.train.stages)

    def locate(self, step: int) -> tuple[int, int]:
        """The stage of a step, and the step within it, all counted from 0."""
        for index, stage in enumerate(self.train.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise IndexError("past the last stage")

    def on_policy_at(self, step: int) -> OnPolicySettings | None:
        """How the student writes the texts of a step, counted from 0; None where they are given.

        The same on every rank, and after a restart.
        """
        settings = self.train.stages[self.locate(step)[0]].on_policy
        return settings if settings and drawn([self.seed, "on_policy", step]) < settings.share else None

    def weights_at(self, step: int) -> LossWeights:
        """The weights of a step, counted from 0; nothing holds the student to texts that it writes itself."""
        index, within = self.locate(step)
        weights = self.train.stages[index].weights_at(within)
        return weights.model_copy(update={"ce": 0.0, "ctc": 0.0}) if self.on_policy_at(step) else weights
