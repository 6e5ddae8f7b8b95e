"""From items to prompts: where images go, how a candidate is joined, and what is refused."""

from dataclasses import replace

import pytest

from radar_callback.errors import ConfigError, ItemError
from radar_callback.scoring.prompt import prompt_builder
from tests.helpers import tiny

ONE = replace(
    tiny.samples(1)[0], question="What is {x}?", images=(b"",), image_names=("0.png",), answer="a", distractors=("b",)
)
MARKED = replace(ONE, question="See <image> and <image>.", images=(b"", b""), image_names=("0.png", "1.png"))


class Chat:
    """As much of a processor as a prompt needs."""

    def __init__(self, template="yes"):
        self.chat_template = template

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        assert add_generation_prompt and not tokenize
        if self.chat_template == "drops the question":
            return "USER:"
        text = "".join("[I]" if part["type"] == "image" else part["text"] for part in messages[0]["content"])
        return f"USER: {text} ASSISTANT:"


@pytest.mark.parametrize(
    ("style", "sample", "text", "joiner"),
    [
        ("plain", ONE, "[I]What is {x}?", " "),
        ("plain", MARKED, "See [I] and [I].", " "),
        ("plain", replace(ONE, question="ends in space "), "[I]ends in space ", " "),
        ("chat", ONE, "USER: [I]What is {x}? ASSISTANT:", ""),
        ("chat", MARKED, "USER: See [I] and [I]. ASSISTANT:", ""),
        ("Q: {question} A:", ONE, "[I]Q: What is {x}? A:", " "),
        ("Q: {question}\nA:\n", ONE, "[I]Q: What is {x}?\nA:\n", ""),
        ("Q: {question} A:{answer}", ONE, "[I]Q: What is {x}? A:", ""),
        ("{images}\n{question}", ONE, "[I]\nWhat is {x}?", " "),
        ("{images}\n{question}", MARKED, "\nSee [I] and [I].", " "),
        (lambda sample, image: f"{sample.question}{image}:", ONE, "What is {x}?[I]:", " "),
        ("plain", replace(ONE, images=(), image_names=()), "What is {x}?", " "),
    ],
)
def test_prompts(style, sample, text, joiner):
    prompt = prompt_builder(style, Chat(), "[I]")(sample)
    assert (prompt.text, prompt.joiner) == (text, joiner)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("socratic", "Unknown prompt style 'socratic': expected 'plain', 'chat', a template with {question}"),
        ("{question} {answer}.", "'.' follows it"),
        (7, "Unknown prompt style 7"),
    ],
)
def test_a_style_that_cannot_work_is_refused(style, message):
    with pytest.raises(ConfigError) as error:
        prompt_builder(style, Chat(), "[I]")
    assert message in str(error.value)


def test_chat_needs_a_template_that_shows_the_question():
    with pytest.raises(ConfigError, match="this one has none"):
        prompt_builder("chat", Chat(None), "[I]")
    with pytest.raises(ItemError, match="left out the question"):
        prompt_builder("chat", Chat("drops the question"), "[I]")(ONE)
