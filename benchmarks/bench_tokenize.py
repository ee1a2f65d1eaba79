"""Claims: tokenizing end to end (read, clean, split, encode, write, hash, commit) runs at 0.9 or
more of bare `encode_batch_fast` over text in memory with a thread for each core; at 1.5 times
datatrove's pipeline; at 3 times Megatron-LM's preprocessing, one document at a time; in memory that
does not grow with the corpus.

    python benchmarks/bench_tokenize.py [--megabytes 30] [--rounds 5]

The corpus is Python's own sources, the vocabulary 1,024. All but the bare library run one process a
core, started anew in every round: ours begins each round without a word in its memory. Each round
runs all contenders one after the other; ratios are within a round, and the median over rounds is
printed. `megatron-core` and `datatrove[io]` take part where they are installed.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.corpus import MIB, CorpusConfig, scan
from data.documents import SIDES, Tally, documents
from data.pieces import Task, plan
from data.prepare import prepare
from data.tokenize import Job, tokenize, tokenize_shard
from data.tokenizer import Tokenizer, TokenizerConfig

CORPUS = CorpusConfig.model_validate({"name": "stdlib", "source": {"kind": "code"}})
BATCH_CHARS = MIB
CORES = len(os.sched_getaffinity(0))
_tokenizer: Any


class Bench:
    def __init__(self, root: Path, megabytes: int) -> None:
        self.root = root
        made = prepare(CORPUS, TokenizerConfig(vocab_size=1024), root / "cache")
        self.path = made.tokenizer
        self.tokenizer = Tokenizer.load(made.tokenizer)
        self.tasks: list[Task] = []
        size = 0
        for task in plan(CORPUS, scan(CORPUS)):
            if size < megabytes * 1_000_000:
                self.tasks.append(task)
                size += sum(piece.size or 0 for piece in task.pieces)

    def texts(self) -> Iterator[str]:
        for task in self.tasks:
            for placed in documents(CORPUS, task, Tally()):
                yield placed.document.text

    def bare(self) -> Callable[[], None]:
        batches: list[list[str]] = [[]]
        for text in self.texts():
            if sum(map(len, batches[-1])) > BATCH_CHARS:
                batches.append([])
            batches[-1].append(text)

        def run() -> None:
            for batch in batches:
                self.tokenizer.inner.encode_batch_fast(batch, add_special_tokens=False)

        return run

    def job(self) -> Job:
        job = Job(self.root / "ours", CORPUS, self.tokenizer.text, self.tokenizer.end_token)
        for name in (*SIDES, "shards"):
            (job.folder / name).mkdir(parents=True, exist_ok=True)
        return job

    def ours(self) -> Callable[[], None]:
        job = self.job()

        def run() -> None:
            with Pool(CORES, _one_thread) as pool:
                pool.starmap(tokenize_shard, [(job, task) for task in self.tasks], 1)

        return run

    def megatron(self) -> Callable[[], None]:
        """What Megatron-LM's tools/preprocess_data.py does with a JSON-lines file: a pool of
        processes, one line at a time (32 to a message) through `json` and a tokenizer of
        `transformers`, and one item at a time into its `IndexedDatasetBuilder`."""
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

        parts = self.lines()

        def run() -> None:
            builder = IndexedDatasetBuilder(str(self.root / "megatron.bin"), dtype=np.uint16)
            with Pool(CORES, _load_tokenizer, (str(self.path),)) as pool:
                for ids in pool.imap(_encode_line, chain.from_iterable(map(open, parts)), 32):
                    builder.add_item(torch.IntTensor(ids))
                    builder.end_document()
            builder.finalize(str(self.root / "megatron.idx"))

        return run

    def datatrove(self) -> Callable[[], None]:
        from datatrove.pipeline.readers import JsonlReader
        from datatrove.pipeline.tokens import DocumentTokenizer

        step = DocumentTokenizer(
            str(self.root / "datatrove-tokens"),
            tokenizer_name_or_path=str(self.path),
            eos_token=self.tokenizer.end_token,
            shuffle_documents=False,
        )
        reader = JsonlReader(str(self.lines()[0].parent))

        def run() -> None:
            with Pool(CORES, _one_thread) as pool:
                pool.starmap(_run_datatrove, [(reader, step, rank) for rank in range(CORES)], 1)

        return run

    def lines(self) -> list[Path]:
        """The corpus as JSON lines, a file for each core, which the others read."""
        folder = self.root / "texts"
        paths = [folder / f"{number}.jsonl" for number in range(CORES)]
        if not folder.exists():
            folder.mkdir()
            texts = list(self.texts())
            for number, path in enumerate(paths):
                with path.open("w") as file:
                    for text in texts[number::CORES]:
                        file.write(json.dumps({"text": text}) + "\n")
        return paths


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _run_datatrove(reader: Any, step: Any, rank: int) -> None:
    step.run(reader.run(None, rank, CORES), rank, CORES)


def _load_tokenizer(path: str) -> None:
    from transformers import PreTrainedTokenizerFast

    global _tokenizer
    _one_thread()
    _tokenizer = PreTrainedTokenizerFast(tokenizer_file=path)


def _encode_line(line: str) -> list[int]:
    return _tokenizer(json.loads(line)["text"])["input_ids"]


def seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def added_memory(root: Path, megabytes: int) -> int:
    """Bytes by which tokenizing raises the peak memory of a process of its own."""
    command = [sys.executable, __file__, "--memory", str(root), "--megabytes", str(megabytes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def print_added_memory(bench: Bench) -> None:
    job = bench.job()
    next(bench.texts())  # imports what reading needs
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_bytes()
    tokenize(job, bench.tasks, 0, lambda *_: None)
    print(peak_bytes() - before)


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokenizing against its alternatives.")
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_added_memory(Bench(options.memory, options.megabytes))
        return
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), options.megabytes)
        others = [name for name in ("megatron", "datatrove") if importlib.util.find_spec(name)]
        names = ["bare", "ours", *others]
        runs = {name: getattr(bench, name)() for name in names}
        rounds = [
            {name: seconds(run) for name, run in runs.items()} for _ in range(options.rounds + 1)
        ][1:]  # the first one warms up
        memory = [added_memory(Path(root), options.megabytes // part) / 1e6 for part in (1, 2)]
    for name in names:
        rate = options.megabytes / statistics.median(times[name] for times in rounds)
        ratio = statistics.median(times[name] / times["ours"] for times in rounds)
        print(f"{name:10} {rate:6.2f} MB/s, ours is {ratio:5.2f} times that")
    print(f"memory added by ours: {memory[0]:.0f} MB, for half the corpus {memory[1]:.0f} MB")


if __name__ == "__main__":
    main()
