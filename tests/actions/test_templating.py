"""What rendering a template may cost, and reach."""

import os
import time

import psutil
import pytest

from blocks.templating import TemplateError, render

CONTEXT = {"steps": {"fetch": {"output": {"ids": [1, 2], "items": "own"}}}, "input": {"a": None}}


async def test_templates_read_what_steps_have_put_out():
    found = await render(
        ["{{ steps.fetch.output.ids | tojson }}", "{{ steps.fetch.output['items'] }}\n", "é"],
        CONTEXT,
    )

    assert found == ["[1, 2]", "own\n", "é"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 10**10 }}", "it takes more memory than there is; simplify it"),
        ("{{ '%999999999d' % 1 }}", "it takes more memory than there is; simplify it"),
        ("{{ [[0] * 10**9] * 10**9 }}", "it takes more memory than there is; simplify it"),
        ("{{ range(10**9) | list }}", "Range too big"),
        ("{% for i in range(99999) %}12345678{% endfor %}", "more than 262,144 bytes; shorten it"),
        ("{{ input.b.c }}", "has no attribute 'b'"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "is unsafe"),
        ("{{ input.update({'a': 1}) }}", "is unsafe"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
async def test_what_is_too_large_or_reaches_too_far_is_refused(template, said):
    with pytest.raises(TemplateError) as refused:
        await render([template], CONTEXT)

    assert said in str(refused.value)


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [LOOPS, "{{ (9**9)**(9**7) }}"])
async def test_what_takes_too_long_is_stopped_and_leaves_nothing_behind(template):
    began = time.monotonic()

    with pytest.raises(TemplateError, match="more than 3 s of the processor, or more memory"):
        await render([template], CONTEXT)

    assert time.monotonic() - began < 30
    left = [one.cmdline() for one in psutil.Process().children(recursive=True)]
    assert not [one for one in left if any("template_process" in part for part in one)]


async def test_what_renders_knows_nothing_of_the_worker_s_environment(monkeypatch):
    monkeypatch.setitem(os.environ, "SECRET_OF_THE_WORKER", "s3cret")

    with pytest.raises(TemplateError):
        await render(["{{ environ.SECRET_OF_THE_WORKER }}"], CONTEXT)
