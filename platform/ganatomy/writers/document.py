"""The report of a sweep as its writers take it: an answer, what it rests on, and exhibits; no HTML, no LaTeX."""

from __future__ import annotations

from dataclasses import dataclass

from ganatomy.exhibits.exhibit import Exhibit


@dataclass(frozen=True)
class Report:
    """One record, whatever it is written as.

    title: what it is of.  state: how far that is, in a sentence; empty where it has ended.  answer: in one sentence, of
    the strongest evidence there is; reading: ``helps``, ``harms``, ``undecided`` … of it, or empty: what colours it.
    sentences: what a reader must know beside it.  facts: name -> value, in few words.  links: text and address of what
    can be looked at elsewhere.  exhibits: in the order in which they are shown.  legend: term and meaning.
    """

    title: str
    answer: str
    reading: str = ""
    state: str = ""
    sentences: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
