"""GBNF in the shapes that LocalAI's host sends, written here: JSON objects, JSON schemas, tools, mixed text."""

JSON_OBJECT = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]*)) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws

# Optional white space, after tokens
ws ::= ([ \t\n] ws)?
"""

_PRIMITIVES = r"""
space ::= " "?
boolean ::= ("true" | "false") space
null ::= "null" space
integer ::= ("-"? ([0-9] | [1-9] [0-9]*)) space
number ::= ("-"? ([0-9] | [1-9] [0-9]*)) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? space
string ::=  "\"" (
            [^"\\] |
            "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])
    )* "\"" space
"""

JSON_SCHEMA = (
    _PRIMITIVES
    + r"""
root ::= "{" space "\"age\"" space ":" space integer "," space "\"name\"" space ":" space string "," space "\"tags\"" space ":" space root-tags "," space "\"kind\"" space ":" space root-kind "}" space
root-kind ::= "\"cat\"" | "\"dog\""
root-tags ::= "[" space (string ("," space string)*)? "]" space
"""
)

TOOLS = (
    _PRIMITIVES
    + r"""
root ::= root-0 | root-1
root-0-arguments ::= "{" space "\"city\"" space ":" space string "}" space
root-0-name ::= "\"get_weather\""
root-0 ::= "{" space "\"arguments\"" space ":" space root-0-arguments "," space "\"name\"" space ":" space root-0-name "}" space
root-1-arguments ::= "{" space "\"message\"" space ":" space string "}" space
root-1-name ::= "\"answer\""
root-1 ::= "{" space "\"arguments\"" space ":" space root-1-arguments "," space "\"name\"" space ":" space root-1-name "}" space
"""
)

PARALLEL_TOOLS = (
    TOOLS.replace("root ::= root-0 | root-1", "item ::= root-0 | root-1\nroot ::= arr | item")
    + r"""
arr  ::=
  "[\n"  (
    item
    (",\n"  item)*
  )? "]"
"""
)

MIXED_TEXT = (
    TOOLS.replace("root ::= root-0 | root-1", "item ::= root-0 | root-1\nroot ::= item | freestring")
    + r"""
freestring ::= (
    [^\x00] |
    "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])
    )* space
"""
)

TAGGED = (
    TOOLS.replace("root ::= root-0 | root-1", "item ::= root-0 | root-1\n")
    + r"""
root ::= "<tool_call>" "\n"? item "\n"? "</tool_call>"
"""
)
