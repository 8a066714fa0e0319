"""The template language, against what Go's own text/template made of the same templates (go.json)."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.calicoctl.gotemplate import Template, TemplateError, execute
from calico_node.calicoctl.gotemplate.printf import quote, sprintf

GO = json.loads(Path(__file__).with_name("go.json").read_text())
"""Texts of Go 1.26, or that it refuses the template."""


@pytest.mark.parametrize("case", GO["cases"], ids=lambda case: case["template"][:40])
def test_as_go_does(case: dict[str, str]) -> None:
    if "error" in case:
        with pytest.raises(TemplateError, match=r"^template: get:\d+:"):
            Template(case["template"]).execute(GO["data"])
    else:
        assert Template(case["template"]).execute(GO["data"]) == case["text"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "a\n{{range .}}\n{{.Nope.Nope}}{{end}}",
            'template: get:3:7: executing "get" at <.Nope.Nope>: can\'t evaluate',
        ),
        ("\n\n{{foo}}", 'template: get:3: function "foo" not defined'),
        (
            '{{define "t"}}\n{{index . 9}}{{end}}{{template "t" .}}',
            'get:2:2: executing "t" at <index . 9>: error calling',
        ),
        ("{{if 1}}", "unexpected EOF"),
        ('{{"a', "unterminated quoted string"),
        ("{{$x}}", 'undefined variable "$x"'),
    ],
)
def test_errors_name_the_template_and_the_line(template: str, text: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template).execute(["a", "b"])
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ('{{define "a"}}{{template "a" .}}{{end}}{{template "a" .}}', "exceeded maximum template depth"),
        ("{{range 9000000000000000000}}{{end}}", "takes more than"),
        ('{{$x := "ab"}}{{range 99}}{{$x = print $x $x}}{{end}}', "characters"),
        ('{{range 1000000}}{{printf "%999999d" 1}}{{end}}', "characters"),
        ("{{" + "(" * 100_000, "unclosed action"),
        ("{{" + "(" * 1000 + "1" + ")" * 1000 + "}}", "levels deep"),
        ("{{if 1}}" * 1000 + "{{end}}" * 1000, "levels deep"),
        ("{{if 1}}{{else}}" * 1000 + "{{end}}" * 1000, "levels deep"),
        ("{{if 0}}x" + "{{else if 0}}x" * 1000 + "{{end}}", "levels deep"),
    ],
)
def test_no_template_runs_without_end(template: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "MAX_STEPS", 100_000)
    monkeypatch.setattr(execute, "MAX_OUTPUT", 10_000_000)
    began = time.monotonic()
    with pytest.raises(TemplateError, match=text):
        Template(template).execute(None)
    assert time.monotonic() - began < 30


_PIECES = st.sampled_from(
    ["{{", "}}", "{{-", "-}}", " ", "if", "range", "end", "else", "with", "define", "template", "block", "break",
     "$x", ":=", "=", "|", "(", ")", ".", ".A", ".B.C", '"s"', "`r`", "'c'", "1", "2.5", "nil", "print", "index",
     "printf", '"%d"', "len", "eq", "and", ",", "/*", "*/", "\n", "é", "\0"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=30).map("".join))
def test_any_text_gives_a_text_or_one_error(template: str) -> None:
    with suppress(TemplateError):
        assert isinstance(Template(template).execute({"A": [1, "x"], "B": {"C": None}}), str)


@given(st.text())
def test_text_without_actions_is_itself(text: str) -> None:
    text = text.replace("{{", "")
    assert Template(text).execute(None) == text


@given(st.text(st.characters(codec="utf-8")))
def test_what_is_quoted_reads_back(text: str) -> None:
    assert Template("{{" + quote(text) + "}}").execute(None) == text


@given(st.text(), st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())))
def test_printf_takes_anything(form: str, values: list[object]) -> None:
    assert isinstance(sprintf(form, values), str)
    assert isinstance(sprintf(form.replace("e", "%"), values), str)
