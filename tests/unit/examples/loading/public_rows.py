"""A row of well-known public data sets and of other tools' files, and what it becomes."""

FOUR = ["w", "x", "y", "z"]
OPTIONS = "\n\nOptions:\n(A) w\n(B) x\n(C) y\n(D) z"
LABELLED = {"label": ["A", "B", "C", "D"], "text": FOUR}
PARAGRAPHS = {"title": ["T", "U"], "sentences": [["s.", "t."], ["u."]]}

# The row, its question, its gold answers.
ROWS = {
    "BBQ": (
        {"question": "q", "context": "c", "ans0": "x", "ans1": "y", "ans2": "z", "label": 2},
        "Context: c\n\nQuestion: q\n\nOptions:\n(A) x\n(B) y\n(C) z",
        ["C"],
    ),
    "MMLU": (
        {"question": "q", "subject": "s", "choices": FOUR, "answer": 3},
        "q" + OPTIONS,
        ["D"],
    ),
    "MMLU as CSV": (
        {"": "0", "Question": "q", "A": "w", "B": "x", "C": "y", "D": "z", "Answer": "C"},
        "q" + OPTIONS,
        ["C"],
    ),
    "MMLU-Pro": (
        {"question": "q", "options": FOUR, "answer": "B", "answer_index": 1, "category": "c"},
        "q" + OPTIONS,
        ["B"],
    ),
    "ARC": (
        {"id": "1", "question": "q", "choices": LABELLED, "answerKey": "D"},
        "q" + OPTIONS,
        ["D"],
    ),
    "CommonsenseQA, ARC as published": (
        {
            "id": "1",
            "question": {
                "stem": "q",
                "choices": [
                    {"label": label, "text": text} for label, text in zip("1234", FOUR, strict=True)
                ],
            },
            "answerKey": "3",
        },
        "q" + OPTIONS,
        ["C"],
    ),
    "OpenBookQA": (
        {"id": "1", "question_stem": "q", "choices": LABELLED, "answerKey": "D"},
        "q" + OPTIONS,
        ["D"],
    ),
    "AQuA": (
        {
            "question": "q",
            "options": ["A)w", "B)x", "C)y", "D)z"],
            "rationale": "r",
            "correct": "B",
        },
        "q" + OPTIONS,
        ["B"],
    ),
    "MathQA": (
        {
            "Problem": "q",
            "Rationale": "r",
            "options": "a ) w , b ) x , c ) y , d ) z",
            "correct": "d",
        },
        "q" + OPTIONS,
        ["D"],
    ),
    "MedQA": (
        {
            "question": "q",
            "answer": "y",
            "options": dict(zip("ABCD", FOUR, strict=True)),
            "answer_idx": "C",
        },
        "q" + OPTIONS,
        ["C"],
    ),
    "MedMCQA": (
        {"question": "q", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": 0, "exp": "e"},
        "q" + OPTIONS,
        ["A"],
    ),
    "BoolQ": (
        {"question": "q", "passage": "p", "answer": True},
        "Passage: p\n\nQuestion: q",
        ["True"],
    ),
    "SQuAD": (
        {
            "title": "t",
            "context": "c",
            "question": "q",
            "answers": {"text": ["a", "a", "b"], "answer_start": [1, 1, 2]},
        },
        "Context: c\n\nQuestion: q",
        ["a", "b"],
    ),
    "HotpotQA": (
        {"question": "q", "answer": "a", "supporting_facts": {}, "context": PARAGRAPHS},
        "Context: T\ns.\nt.\nU\nu.\n\nQuestion: q",
        ["a"],
    ),
    "HotpotQA as published": (
        {"question": "q", "answer": "a", "context": [["T", ["s.", "t."]], ["U", ["u."]]]},
        "Context: T\ns.\nt.\nU\nu.\n\nQuestion: q",
        ["a"],
    ),
    "MuSiQue": (
        {
            "question": "q",
            "answer": "a",
            "answer_aliases": ["b"],
            "paragraphs": [{"idx": 0, "title": "T", "paragraph_text": "s."}],
        },
        "Paragraphs: T\ns.\n\nQuestion: q",
        ["a", "b"],
    ),
    "FOLIO": (
        {"premises": "p\nr", "premises-FOL": "f", "conclusion": "c", "label": "Uncertain"},
        "Premises: p\nr\n\nConclusion: c",
        ["Uncertain"],
    ),
    "FOLIO as published": (
        {"premises": ["p", "r"], "conclusion": "c", "label": "True"},
        "Premises: p\nr\n\nConclusion: c",
        ["True"],
    ),
    "ProntoQA": (
        {"context": "c", "question": "q", "options": ["A) True", "B) False"], "answer": "B"},
        "Context: c\n\nQuestion: q\n\nOptions:\n(A) True\n(B) False",
        ["B"],
    ),
    "Alpaca": (
        {"instruction": "i", "input": "n", "output": "o", "text": "i n o"},
        "Instruction: i\n\nInput: n",
        ["o"],
    ),
    "Alpaca without input": (
        {"instruction": "i", "input": "", "output": "o"},
        "Instruction: i",
        ["o"],
    ),
    "Dolly": (
        {"instruction": "i", "context": "c", "response": "r", "category": "x"},
        "Context: c\n\nInstruction: i",
        ["r"],
    ),
    "PIQA": (
        {"goal": "g", "sol1": "s", "sol2": "t", "label": 0},
        "g\n\nOptions:\n(A) s\n(B) t",
        ["A"],
    ),
    "HellaSwag": (
        {"ctx_a": "a", "ctx_b": "b", "ctx": "a b", "endings": FOUR, "split": "val", "label": "2"},
        "a b" + OPTIONS,
        ["C"],
    ),
    "RACE": (
        {"article": "a", "question": "q", "options": FOUR, "answer": "B"},
        "Article: a\n\nQuestion: q" + OPTIONS,
        ["B"],
    ),
    "StrategyQA": (
        {"qid": "1", "term": "t", "question": "q", "answer": False, "facts": ["f"]},
        "q",
        ["False"],
    ),
    "LogiQA": (
        {"context": "c", "query": "q", "options": FOUR, "correct_option": 2},
        "Context: c\n\nQuery: q" + OPTIONS,
        ["C"],
    ),
    "ReClor": (
        {"context": "c", "question": "q", "answers": FOUR, "label": 3, "id_string": "1"},
        "Context: c\n\nQuestion: q" + OPTIONS,
        ["D"],
    ),
    "CosmosQA": (
        {
            "context": "c",
            "question": "q",
            **{f"answer{number}": text for number, text in enumerate(FOUR)},
            "label": 1,
        },
        "Context: c\n\nQuestion: q" + OPTIONS,
        ["B"],
    ),
    "SocialIQA": (
        {
            "context": "c",
            "question": "q",
            "answerA": "w",
            "answerB": "x",
            "answerC": "y",
            "label": "3",
        },
        "Context: c\n\nQuestion: q\n\nOptions:\n(A) w\n(B) x\n(C) y",
        ["C"],
    ),
    "WinoGrande": (
        {"sentence": "s", "option1": "a", "option2": "b", "answer": "2"},
        "s\n\nOptions:\n(A) a\n(B) b",
        ["B"],
    ),
    "COPA": (
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1},
        "Premise: p\n\nQuestion: cause\n\nOptions:\n(A) a\n(B) b",
        ["B"],
    ),
    "SciQ": (
        {"question": "q", "distractor1": "d", "distractor2": "b", "correct_answer": "c"},
        "q\n\nOptions:\n(A) b\n(B) c\n(C) d",
        ["B"],
    ),
    "SNLI": (
        {"premise": "p", "hypothesis": "h", "label": "neutral"},
        "Premise: p\n\nHypothesis: h",
        ["neutral"],
    ),
    "RTE": (
        {"sentence1": "s", "sentence2": "t", "label": 1, "idx": 0},
        "Sentence1: s\n\nSentence2: t",
        ["1"],
    ),
    "FEVER": (
        {"id": 1, "claim": "c", "evidence": "e", "label": "REFUTES"},
        "Evidence: e\n\nClaim: c",
        ["REFUTES"],
    ),
    "SetFit's": ({"text": "t", "label": 1, "label_text": "good"}, "t", ["good"]),
    "PubMedQA": (
        {"question": "q", "context": {"contexts": ["c", "d"]}, "final_decision": "maybe"},
        "Context: c\nd\n\nQuestion: q",
        ["maybe"],
    ),
    "DROP": (
        {"passage": "p", "question": "q", "answers_spans": {"spans": ["4"], "types": ["number"]}},
        "Passage: p\n\nQuestion: q",
        ["4"],
    ),
    "TriviaQA": (
        {"question": "q", "answer": {"value": "a", "aliases": ["b", "a"], "normalized_value": "a"}},
        "q",
        ["a", "b"],
    ),
    "Natural Questions": ({"question": "q", "answer": ["a", "b"]}, "q", ["a", "b"]),
    "MATH": (
        {"problem": "p", "level": "5", "solution": r"so $\boxed{\frac{1}{2}}$."},
        "p",
        [r"\frac{1}{2}"],
    ),
    "MATH-500": ({"problem": "p", "solution": r"\boxed{3}", "answer": "4"}, "p", ["4"]),
    "MATH, a box without braces": (
        {"problem": "p", "solution": r"so\n$x = \boxed 2$."},
        "p",
        ["2"],
    ),
    "MATH, a frame": ({"problem": "p", "solution": r"\framebox{5} and \fbox{6}"}, "p", ["6"]),
    "MATH, a digit": ({"problem": "p", "solution": r"no, \boxed9. It is"}, "p", ["9"]),
    "MATH, of boxes": (
        {"problem": "p", "solution": r"$\boxed{7}$. (\boxed is for the answer.)"},
        "p",
        ["7"],
    ),
    "MATH, no box": ({"problem": "p", "solution": r"\boxed to frame"}, "p", [r"\boxed to frame"]),
    "MetaMathQA": ({"query": "q", "response": "so 4.\n#### 110\nThe answer is: 110"}, "q", ["110"]),
    "a heading": (
        {"question": "q", "answer": "#### Steps\nIt is 4."},
        "q",
        ["#### Steps\nIt is 4."],
    ),
    "GSM8K": ({"question": "q", "answer": "9 * 2 = <<9*2=18>>18\n#### 18"}, "q", ["18"]),
    "SVAMP": (
        {"ID": "1", "Body": "b", "Question": "q", "Equation": "e", "Answer": 8.0},
        "Body: b\n\nQuestion: q",
        ["8"],
    ),
    "BIG-bench": (
        {"input": "i", "target_scores": {"s": 0, "t": 1}},
        "i\n\nOptions:\n(A) s\n(B) t",
        ["B"],
    ),
}
