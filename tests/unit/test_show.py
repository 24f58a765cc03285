from scripts import show


def test_what_a_terminal_would_obey_is_shown_as_a_sign(capsys):
    show.line("a\x1b]0;owned\x07b\x9bc\nd")
    assert capsys.readouterr().out == "a\ufffd]0;owned\ufffdb\ufffdc\nd\n"


def test_tables_take_no_markup_and_no_commands(capsys):
    show.table(["title"], [["[bold]x[/bold]\x1b[31m"]])
    assert "[bold]x[/bold]\ufffd[31m" in capsys.readouterr().out
