"""40 label files as labs have them, and what must come of each, in code and in words.

The words are the rows of docs/labels.md.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

HEAD = "slide,label,patient\n"
SPLIT = "slide,label,patient,split\n"
AGES = "".join(f"s{n},{38 + n % 19},P{n}\n" for n in range(24))
DOSES = "".join(f's{n},"{n},5",P{n}\n' for n in range(8))
GRADES = "".join(f"s{n},{5 - n},P{n}\n" for n in range(6))


@dataclass(frozen=True)
class Ugly:
    """A label file.

    Attributes:
        file: what it is, in words.
        outcome: what comes of it, in words.
        content: text is written as UTF-8.
        labels: slide -> label as they must be read; None: the file is refused.
        says: what the refusal, or the warnings and the sentence on columns, must tell.
        slides: that are there; those of ``labels``, if None.
        patients: slide -> patient, where that is the point.
        options: of ``load_labels``.
        distinct: content of the table given by ``--distinct-patients``.
        quiet: there must be no warning.
    """

    file: str
    outcome: str
    content: str | bytes
    labels: dict[str, str] | None
    says: tuple[str, ...] = ()
    slides: tuple[str, ...] | None = None
    patients: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    distinct: str | None = None
    quiet: bool = False


AB = {"a": "x", "b": "y"}
ABC = ("a", "b", "c")
OF_P = {"a": "P", "b": "P"}

UGLY = (
    # tables of other programs
    Ugly("CLAM: `case_id,slide_id,label`", "read",
         "case_id,slide_id,label\nP,a,x\nP,b,y\n", AB, patients=OF_P, quiet=True),
    Ugly("STAMP: `PATIENT;FILENAME;isMSIH` with feature files as names, semicolons",
         "read with `--label-column isMSIH`",
         "PATIENT;FILENAME;isMSIH\nP;a.h5;x\nP;b.h5;y\n", AB, patients=OF_P,
         options={"label_column": "isMSIH"}, quiet=True),
    Ugly("slideflow: `patient,slide,outcome,site`", "read; the site is left alone",
         "patient,slide,outcome,site\nP,a,x,1\nP,b,y,2\n", AB, patients=OF_P, quiet=True),
    Ugly("hs2p: an id and a path, both of which name the slide", "read; the id counts",
         "sample_id,image_path,label,patient\na,/d/1.svs,x,P\nb,/d/2.svs,y,P\n", AB, quiet=True),
    # how it was saved
    Ugly("UTF-8 with a byte order mark, as Excel saves it", "read",
         b"\xef\xbb\xbf" + (HEAD + "a,x,P\nb,y,P\n").encode(), AB, quiet=True),
    Ugly("UTF-16 with tabs (\"Unicode text\")", "read",
         (HEAD + "a,Drüse,P\nb,y,P\n").replace(",", "\t").encode("utf-16"),
         {"a": "Drüse", "b": "y"}, quiet=True),
    Ugly("Windows-1252 with umlauts", "read; warned to look at names with accents",
         (HEAD + "a,Drüse,P\nb,y,P\n").encode("cp1252"), {"a": "Drüse", "b": "y"},
         ("read as Windows-1252",)),
    Ugly("`sep=;` above the header", "read",
         "sep=;\nslide;label;patient\na;x;P\nb;y;P\n", AB, quiet=True),
    Ugly("line ends of an old Macintosh, blank rows, empty columns at the right", "read",
         "slide,label,patient,,\r,,,,\ra,x,P,,\rb,y,P,,\r\r", AB, quiet=True),
    Ugly("a line end inside quotes", "read; it is a blank like others",
         HEAD + 'a,"lung\nadeno",P\nb,lung adeno,P\nc,y,P\n',
         {"a": "lung\nadeno", "b": "lung\nadeno", "c": "y"}, quiet=True),
    Ugly("headers with no-break spaces, odd dashes and characters that are not seen", "read",
         "\u200bSLIDE\u2011ID, Label\u00a0,Patient\u2013Id\na,x,P\nb,y,P\n", AB, patients=OF_P,
         quiet=True),
    Ugly("cells against formulas: `'=1+1`, `'-7`", "read as `=1+1` and `-7`",
         HEAD + "a,'=1+1,'-7\nb,y,P\n", {"a": "=1+1", "b": "y"}, patients={"a": "-7"}, quiet=True),
    Ugly("an Excel workbook called labels.csv", "refused: save it as CSV",
         b"PK\x03\x04\x14\0\x06\0", None, ("is an Excel", "save the sheet as CSV")),
    Ugly("a quote that is not closed", "refused, with the line",
         HEAD + 'a,x,P\nb,"y,P\nc,y,P\n', None, ("line 3", "double quote"), slides=ABC),
    Ugly("a row with more cells than the header", "refused, with the line",
         HEAD + "a,x,P\nb,y,P,Q\n", None, ("line 3: has 4 cells",), slides=("a", "b")),
    # which slide is meant
    Ugly("paths of a Windows share, suffixes in capitals, `.ome.tif`", "read",
         HEAD + "\\\\nas\\s\\a.SVS,x,P\nC:\\d\\b.ome.tif,y,P\n", AB, quiet=True),
    Ugly("names with accents as macOS writes them", "read",
         HEAD + unicodedata.normalize("NFD", "Grüße,x,P\n") + "b,y,P\n", {"Grüße": "x", "b": "y"},
         quiet=True),
    Ugly("`7` for the slide `007`", "left out; warned, and asked whether `007` is meant",
         HEAD + "7,x,P\na,x,P\nb,y,P\n", AB, ("'7' (line 2: slide '007'? Excel drops",),
         slides=("007", "a", "b")),
    Ugly("`Case_1` for the slide `case-1`", "left out; warned, and asked whether `case-1` is meant",
         HEAD + "Case_1,x,P\na,x,P\nb,y,P\n", AB, ("'Case_1' (line 2: slide 'case-1'?",),
         slides=("case-1", "a", "b")),
    Ugly("a file name that is in two folders", "refused, with both slides",
         HEAD + "a.svs,x,P\nb,y,P\n", None, ("could be 'lung_a', 'skin_a'",),
         slides=("lung_a", "skin_a", "b")),
    Ugly("slides without a row, rows without a slide", "left out; warned of both",
         HEAD + "a,x,P\nzz,y,P\nb,y,P\n", AB, ("'zz' (line 3)", "without a row", "'c'"),
         slides=ABC),
    Ugly("a slide twice, with blanks that differ", "read; warned, with both lines",
         HEAD + "a,lung adeno,P\nb,y,P\na.svs,lung\u00a0 adeno,P \n",
         {"a": "lung adeno", "b": "y"}, ("'a' (lines 2, 4)",)),
    Ugly("a slide twice, with two labels", "refused, with both lines",
         HEAD + "a,x,P\nb,y,P\na,y,P\n", None, ("label 'x' on line 2 and 'y' on line 4",),
         slides=("a", "b")),
    Ugly("columns `label` and `class`", "refused: choose with `--label-column`",
         "slide,label,class\na,x,1\nb,y,2\n", None, ("'label' and 'class'", "--label-column"),
         slides=("a", "b")),
    # names that are nearly the same
    Ugly("labels with double, thin and no-break spaces", "one class",
         HEAD + "a,lung adeno,P\nb,lung\u2009adeno,P\nc,lung \u00a0adeno,P\nd,y,P\n",
         {"a": "lung adeno", "b": "lung adeno", "c": "lung adeno", "d": "y"}, quiet=True),
    Ugly("labels `Tumor`, `tumor` and `tumor` with a zero-width space",
         "three classes; warned, with lines and in what they differ",
         HEAD + "a,Tumor,P\nb,tumor,P\nc,tumor\u200b,P\n",
         {"a": "Tumor", "b": "tumor", "c": "tumor\u200b"},
         ("'Tumor' and 'tumor' and 'tumor\\u200b' (lines 2 and 3 and 4", "letter case differs",
          "not seen differ")),
    Ugly("patients `007` and `7` on one side", "two patients; warned, with lines",
         SPLIT + "a,x,007,train\nb,y,7,train\n", AB,
         ("'007' and '7' (lines 2 and 3: leading zeros",), patients={"a": "007", "b": "7"}),
    Ugly("patients `P-1` and `p_1` on two sides", "refused, with both: they may be one",
         SPLIT + "a,x,P-1,train\nb,y,Q,train\nc,y,p_1,test\n", None,
         ("'P-1' (train, slide 'a') and 'p_1' (test, slide 'c')", "--distinct-patients"),
         slides=ABC),
    Ugly("patients `1` and `1.0` on two sides", "refused, with both: they may be one",
         SPLIT + "a,x,1,train\nb,y,Q,train\nc,y,1.0,val\n", None,
         ("'1' (train, slide 'a') and '1.0' (val, slide 'c')",), slides=ABC),
    Ugly("the same, and a file that says that they differ", "read; warned, with lines",
         SPLIT + "a,x,1,train\nb,y,Q,train\nc,y,1.0,val\n", {"a": "x", "b": "y", "c": "y"},
         ("'1' and '1.0' (lines 2 and 4",), distinct="patient,other\n1,1.0\n"),
    Ugly("one patient on two sides, once with a no-break space", "refused: it is one patient",
         SPLIT + "a,x,P 1,train\nb,y,Q,train\nc,y,P\u00a01,test\n", None, ("patient 'P 1' is in",),
         slides=ABC),
    # cells that say nothing, or something else
    Ugly("labels `NA`, `nan`, `#N/A`", "classes; warned, with lines",
         HEAD + "a,NA,P\nb,nan,P\nc,#N/A,P\nd,y,P\n",
         {"a": "NA", "b": "nan", "c": "#N/A", "d": "y"},
         ("'label' has what often means that nothing", "'NA' (line 2)", "'#N/A' (line 4)")),
    Ugly("patients `unknown` and `-`", "two patients; warned, with lines",
         HEAD + "a,x,unknown\nb,y,unknown\nc,y,-\n", {"a": "x", "b": "y", "c": "y"},
         ("'patient' has what often means", "'unknown' (lines 2, 3)", "'-' (line 4)"),
         patients={"a": "unknown", "c": "-"}),
    Ugly("labels and patients that are empty",
         "without label left out, without patient on its own; warned",
         HEAD + "a,x,\nb,y,P\nc, ,P\n", AB, ("empty label", "'c' (line 4)", "'a' (line 2)"),
         patients={"a": "a"}, slides=ABC),
    Ugly("patients `2-Jan`, `2024-01-02`, `44927`",
         "patients; warned, with lines: Excel made dates",
         HEAD + "a,x,2-Jan\nb,y,2024-01-02\nc,y,44927\n", {"a": "x", "b": "y", "c": "y"},
         ("'2-Jan' (line 2: Excel makes dates", "'2024-01-02' (line 3", "the date 2023-01-01")),
    Ugly("patients `1.2E+11`", "one patient; warned, with lines: Excel cut the number",
         HEAD + "a,x,1.2E+11\nb,y,1.2E+11\n", AB, ("Excel shortens long numbers", "also line 3"),
         patients={"a": "1.2E+11", "b": "1.2E+11"}),
    # numbers
    Ugly("ages: 19 numbers on 24 slides", "refused: measurements are no classes", HEAD + AGES, None,
         ("holds measurements, not classes: 19 different values on 24 slides", "--label-column"),
         slides=tuple(f"s{n}" for n in range(24))),
    Ugly("millimetres with a decimal comma", "refused: measurements are no classes", HEAD + DOSES,
         None, ("holds measurements",), slides=tuple(f"s{n}" for n in range(8))),
    Ugly("ISUP grades 0 to 5, one slide each", "six classes, in the order of their numbers",
         HEAD + GRADES, {f"s{n}": str(5 - n) for n in range(6)}, quiet=True),
    # splits
    Ugly("splits `Training`, `tune`, `held-out`", "read as train, val and test",
         SPLIT + "a,x,P,Training\nb,y,Q,TRAIN\nc,x,R,tune\nd,y,S,held-out\n",
         {"a": "x", "b": "y", "c": "x", "d": "y"}, quiet=True),
)  # fmt: skip
