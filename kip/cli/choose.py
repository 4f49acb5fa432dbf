"""`kip choose`: which method suits what is wanted, by the figures that were measured on a small machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from kip.cli.options import Json

Reader = Literal["networks", "kernels", "pretraining"]
Learned = Literal["images", "labels", "nothing"]
Time = Literal["minutes", "hours", "accelerator"]

QUESTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "reader": (
        "Who will learn from the set?",
        {
            "networks": "networks that are trained on it",
            "kernels": "kernel regression",
            "pretraining": "networks that are pre-trained on it, without classes",
        },
    ),
    "learned": (
        "What may be learned?",
        {"images": "images", "labels": "labels alone", "nothing": "nothing: natural images, well chosen"},
    ),
    "time": (
        "How much time is there to make it?",
        {
            "minutes": "minutes, on a CPU",
            "hours": "hours, on a CPU",
            "accelerator": "hours, on an accelerator",
        },
    ),
}
"""The three questions, with their answers."""


class Choice(NamedTuple):
    """A method, what it is for, and what it costs."""

    name: str
    reader: Reader
    learned: Learned
    times: tuple[Time, ...]
    """The times for which it is suggested."""
    config: str
    """A configuration to begin with, by its name."""
    row: str | None
    """Its row in the main table; None where it has none."""
    seconds: int | None
    """The seconds of its steps on one CPU core, by the main table: for 10 images per class of CIFAR-10, or for 1 if it
    has no other row. None if the table has no row."""
    accuracy: float | None
    """The accuracy of that row in percent on test: under hard labels for networks, by its own judge for kernels."""
    why: str

    @property
    def cost(self) -> str:
        """The time, for people."""
        if self.seconds is None:
            return "hours"
        return f"{self.seconds} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"


TABLE: tuple[Choice, ...] = (
    Choice(
        "DM", "networks", "images", ("minutes", "hours", "accelerator"), "main_table:cifar10_dm_ipc10", "DM", 130, 39.5,
        "the best images for networks that minutes buy; no network is trained while it learns",
    ),
    Choice(
        "DSA", "networks", "images", ("hours", "accelerator"), "main_table:cifar10_dsa_ipc10", "DSA", 122, 31.8,
        "gradients are matched; DC without its augmentation leads with one image a class of CIFAR-10",
    ),
    Choice(
        "FRePo", "networks", "images", ("hours", "accelerator"), "main_table:cifar10_frepo_ipc10", "FRePo", 200, 29.5,
        "behind DM after minutes; its paper's accuracy takes its paper's steps",
    ),
    Choice(
        "MTT", "networks", "images", ("accelerator",), "main_table:cifar10_mtt_ipc1", "MTT", 357, 22.6,
        "experts are trained first; its paper's accuracy takes many of them and long students",
    ),
    Choice(
        "LD", "networks", "labels", ("minutes", "hours", "accelerator"), "main_table:cifar10_ld_ipc10", "LD", 171, 27.1,
        "labels that train networks, also of another data set's images",
    ),
    Choice(
        "EL2N, easiest", "networks", "nothing", ("minutes", "hours", "accelerator"), "coresets:cifar10_el2n_ipc10",
        "EL2N, easiest", 6, 37.2, "the images that a network finds easy; it is recorded first, some 9 minutes",
    ),
    Choice(
        "RDED", "networks", "nothing", ("minutes", "hours", "accelerator"), "main_table:cifar10_rded_ipc10", "RDED", 32,
        35.3, "crops of natural images, for larger images and many classes; a network learns first, some 9 minutes",
    ),
    Choice(
        "herding", "networks", "nothing", ("minutes", "hours", "accelerator"), "coresets:cifar10_herding_ipc10",
        "herding", 6, 32.9, "images near the mean of their class; the better choice with one image a class of MNIST",
    ),
    Choice(
        "KIP, FC1 kernel", "kernels", "images", ("minutes",), "main_table:cifar10_kip_ipc10", "KIP, FC1 kernel", 299,
        48.9, "images and labels for regression under a kernel with one hidden layer",
    ),
    Choice(
        "KIP, ConvNet kernel", "kernels", "images", ("hours", "accelerator"), "cifar10_convnet_10",
        "KIP, ConvNet kernel", 6714, 62.4, "the highest accuracy from the fewest images; this is one image a class",
    ),
    Choice(
        "RFAD", "kernels", "images", ("minutes", "hours", "accelerator"), "main_table:cifar10_rfad_ipc10", "RFAD", 374,
        46.8, "KIP on the features of random networks; networks learn from its sets too",
    ),
    Choice(
        "Label Solve", "kernels", "labels", ("minutes", "hours", "accelerator"), "main_table:cifar10_label_solve_ipc10",
        "Label Solve, FC1 kernel", 6, 40.2, "one linear system and no steps",
    ),
    Choice(
        "KRR-ST", "pretraining", "images", ("hours", "accelerator"), "fashion_krr_st_100", None, None, None,
        "images with a teacher's representations in place of classes",
    ),
)  # fmt: skip
"""The methods, the better one first for each kind of reader on a small machine."""


def fitting(
    reader: Reader | None = None, learned: Learned | None = None, time: Time | None = None
) -> tuple[Choice, ...]:
    """Return the methods that suit the answers, in the order of the table; None answers with anything."""
    return tuple(
        choice
        for choice in TABLE
        if reader in (None, choice.reader) and learned in (None, choice.learned) and (not time or time in choice.times)
    )


def as_markdown(choices: Sequence[Choice] = TABLE) -> str:
    """Return the table of the page on choosing a method, and the reasons below it."""
    lines = ["| method | time | accuracy | for | learns | begin with |", "|---|---|---|---|---|---|"]
    for choice in choices:
        accuracy = "" if choice.accuracy is None else f"{choice.accuracy} %"
        lines.append(
            f"| {choice.name} | {choice.cost} | {accuracy} | {choice.reader} | {choice.learned} | `{choice.config}` |"
        )
    lines += ["", *(f"- {choice.name}: {choice.why}." for choice in choices)]
    return "\n".join(lines) + "\n"


def choose(
    *,
    reader: Reader | None = None,
    learned: Learned | None = None,
    time: Time | None = None,
    json: Json = False,
) -> dict[str, Any]:
    """Choose a method by three questions, with what each costs and reaches on a small machine.

    On a terminal, questions that no option answers are asked. Elsewhere any answer to them will do.

        kip choose
        kip choose --reader networks --learned images --time minutes

    Args:
        reader: The learners of the set: networks that are trained on it, kernel regression (kernels), or networks
            that are pre-trained on it (pretraining). The default is asked for, or any.
        learned: The learned part of the set: images, labels alone, or nothing. The default is asked for, or any.
        time: The time for making it: minutes or hours on a CPU, or hours on an accelerator. The default is asked
            for, or any.
        json: Print one JSON object with the results as the last line of stdout.
    """
    answers: dict[str, Any] = {"reader": reader, "learned": learned, "time": time}
    if not json and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        answers = {name: given or _asked(name) for name, given in answers.items()}
    chosen = fitting(**answers)
    if not chosen:
        print("No method does just that. The nearest, with one answer left open:")
        chosen = next((near for name in ("time", "learned") if (near := fitting(**{**answers, name: None}))), TABLE)
    width = max(len(choice.name) for choice in chosen)
    print(f"{'method':{width}}  time     accuracy  begin with")
    for choice in chosen:
        accuracy = "" if choice.accuracy is None else f"{choice.accuracy:.1f} %"
        print(f"{choice.name:{width}}  {choice.cost:7}  {accuracy:8}  kip distill {choice.config}")
        print(f"{'':{width}}  {choice.why}")
    print(
        "Time and accuracy: 10 images a class of CIFAR-10 on one CPU core, as docs/main_table.md measured them; "
        "networks by hard labels, kernels by the method's own judge. `kip compare` measures them on your data."
    )
    return {"choices": [choice._asdict() for choice in chosen]}


def _asked(name: str) -> str | None:
    """Return the answer that is typed to a question; None for any."""
    question, answers = QUESTIONS[name]
    print(question)
    for number, text in enumerate(answers.values(), 1):
        print(f"  {number}  {text}")
    while True:
        try:
            typed = input("A number, or Enter for any: ").strip()
        except EOFError:
            return None
        if not typed:
            return None
        if typed.isdecimal() and 1 <= int(typed) <= len(answers):
            return list(answers)[int(typed) - 1]
        if typed in answers:
            return typed
