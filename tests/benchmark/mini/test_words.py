"""No words of radar-mini give an answer away: a model that reads only text stays at chance, and the test can tell."""

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest

from radar_callback import Benchmark
from radar_callback.benchmark.mini import ABILITIES
from radar_callback.benchmark.mini.items import problem


@dataclass(frozen=True)
class Words:
    """An item without its picture."""

    ability: str
    question: str
    candidates: tuple[str, ...]
    answer: str
    turn: int


def features(words: Words, candidate: str) -> Iterator[tuple]:
    """What a text-only guesser could go by."""
    by_length = sorted(words.candidates, key=len)
    first_letters = sorted(words.candidates)
    yield "candidate", candidate
    yield "question and candidate", words.question, candidate
    yield "ability and candidate", words.ability, candidate
    yield "last words and candidate", tuple(words.question.split()[-2:]), candidate
    yield "characters", len(candidate)
    yield "words", len(candidate.split())
    yield "rank by length", [len(other) for other in by_length].index(len(candidate)), len(words.candidates)
    yield "alphabetical rank", first_letters.index(candidate), len(words.candidates)
    yield "repeats the question", any(part in words.question for part in candidate.split())


class Guesser:
    """Smoothed log-odds of being the answer, added up over the features of a candidate."""

    def __init__(self, items: Sequence[Words]) -> None:
        won: Counter[tuple] = Counter()
        expected: Counter[tuple] = Counter()
        for item in items:
            for candidate in item.candidates:
                for feature in features(item, candidate):
                    won[feature] += candidate == item.answer
                    expected[feature] += 1 / len(item.candidates)
        self._weight = {f: math.log((won[f] + 1) / (expected[f] + 1)) for f in expected}

    def credit(self, item: Words) -> float:
        """1 for a right guess, 0 for a wrong one, a share where candidates tie."""
        scores = {c: sum(self._weight.get(f, 0.0) for f in features(item, c)) for c in item.candidates}
        best = [c for c, score in scores.items() if score > max(scores.values()) - 1e-9]
        return (item.answer in best) / len(best)


def excess(items: Sequence[Words], folds: int = 5) -> float:
    """How far a cross-validated guesser is from chance, in standard deviations of a binomial.

    A round is never split between folds: half a round in training would tell which answers are left for the other half.
    """
    by_fold = defaultdict(list)
    for item in items:
        by_fold[item.turn % folds].append(item)
    right = expected = variance = 0.0
    for fold, held_out in by_fold.items():
        guesser = Guesser([item for other, part in by_fold.items() if other != fold for item in part])
        for item in held_out:
            chance = 1 / len(item.candidates)
            right += guesser.credit(item)
            expected += chance
            variance += chance * (1 - chance)
    return (right - expected) / math.sqrt(variance)


def words_of(ability, count: int = 128) -> list[Words]:
    """The items' words, from the rounds alone: whatever is drawn afterwards cannot add to them."""
    found = []
    for index in range(count):
        turn, place = divmod(index, ability.k)
        asked = problem(ability, 0, turn)
        answer = Random(f"radar-mini/0/{ability.name}/order/{turn}").sample(asked.candidates, ability.k)[place]
        found.append(Words(ability.name, asked.question, asked.candidates, answer, turn))
    return found


ITEMS = {ability.name: words_of(ability) for ability in ABILITIES}
EVERYTHING = [item for items in ITEMS.values() for item in items]


def test_the_words_above_are_those_of_the_items(mini):
    samples = {sample.key: sample for sample in mini}
    for name, items in ITEMS.items():
        for index, words in enumerate(items):
            sample = samples[f"{name}-{index:03d}"]
            assert (sample.question, sample.answer) == (words.question, words.answer)
            assert set(sample.candidates) == set(words.candidates)


@pytest.mark.parametrize("ability", list(ITEMS))
def test_text_alone_stays_at_chance(ability):
    assert abs(excess(ITEMS[ability])) < 3


def test_text_alone_stays_at_chance_over_everything():
    assert abs(excess(EVERYTHING)) < 3


def test_even_a_guesser_that_has_seen_the_answers_is_at_chance():
    # Every question with its candidates has each of them for an answer equally often, so there is nothing to learn by heart.
    guesser = Guesser(EVERYTHING)
    for name, items in ITEMS.items():
        k = len(items[0].candidates)
        assert sum(map(guesser.credit, items)) / len(items) == pytest.approx(1 / k), name


@pytest.mark.parametrize("ability", list(ITEMS))
def test_each_round_has_each_answer_once(ability):
    answers = defaultdict(list)
    for item in ITEMS[ability]:
        answers[item.turn, item.question, frozenset(item.candidates)].append(item.answer)
    for (_, _, candidates), given in answers.items():
        assert Counter(given) == dict.fromkeys(candidates, 1)


def test_a_blind_model_has_an_sds_of_chance():
    # Any function of the words: here a fixed arbitrary score for each question and candidate.
    def score(item: Words, candidate: str) -> float:
        return zlib.crc32(f"{item.question} {candidate}".encode()) / 2**32 * 12

    for name, items in ITEMS.items():
        total = 0.0
        for item in items:
            weights = {c: math.exp(score(item, c)) for c in item.candidates}
            total += weights[item.answer] / sum(weights.values())
        assert total / len(items) == pytest.approx(1 / len(items[0].candidates)), name


def leak_by_length(item: Words, rng: Random) -> Words:
    return replace(item, answer=max(item.candidates, key=len)) if rng.random() < 0.3 else item


def leak_by_frequency(item: Words, rng: Random) -> Words:
    return replace(item, answer=min(item.candidates)) if rng.random() < 0.3 else item


def leak_by_phrasing(item: Words, rng: Random) -> Words:
    marked = item.answer == max(item.candidates) and rng.random() < 0.6
    return replace(item, question=item.question.replace("The ", "This ", 1)) if marked else item


def leak_by_wording(item: Words, rng: Random) -> Words:
    if rng.random() < 0.7:
        return item
    longer = f"{item.answer} indeed"
    swapped = tuple(longer if c == item.answer else c for c in item.candidates)
    return replace(item, candidates=swapped, answer=longer)


@pytest.mark.parametrize("leak", [leak_by_length, leak_by_frequency, leak_by_phrasing, leak_by_wording])
def test_the_statistic_finds_a_leak(leak: Callable[[Words, Random], Words]):
    rng = Random(1)
    assert excess([leak(item, rng) for item in EVERYTHING]) > 5


@pytest.mark.parametrize("ability", list(ITEMS))
def test_candidates_are_alike_in_form(ability):
    for item in ITEMS[ability]:
        words = [len(candidate.split()) for candidate in item.candidates]
        assert max(words) - min(words) <= 1
        assert max(words) <= 3
        assert all(candidate == candidate.lower().strip() for candidate in item.candidates)


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.name)
def test_every_phrasing_comes_up_with_every_kind_of_answer(ability):
    asked = {problem(ability, 0, turn).question for turn in range(128 // ability.k)}
    assert len(asked) >= sum(len(task.templates) for task in ability.tasks)
    assert not any("{" in question or question.endswith((" ", ".", ":")) for question in asked)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.125])
def test_a_part_of_the_items_is_as_balanced_as_all_of_them(share):
    """What the demo scores, and what `max_overhead` and the blind control take, are whole rounds."""
    benchmark = Benchmark("radar-mini")
    whole = Counter(item.round for item in benchmark.items)
    part = Counter(benchmark.items[i].round for i in benchmark.portion(share))
    assert len(part) < len(whole) and all(part[name] == whole[name] for name in part)
    words = {f"{words.ability}-{index:03d}": words for items in ITEMS.values() for index, words in enumerate(items)}
    guesser = Guesser(chosen := [words[benchmark.items[i].key] for i in benchmark.portion(share)])
    by_ability = defaultdict(list)
    for one in chosen:
        by_ability[one.ability].append(one)
    for name, items in by_ability.items():
        assert len(items) == share * 128
        assert sum(map(guesser.credit, items)) / len(items) == pytest.approx(1 / len(items[0].candidates)), name
