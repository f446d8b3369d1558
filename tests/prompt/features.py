"""Small chat templates, each with one thing that public ones do: of Jinja, of messages, of tools or of a family."""

JINJA = {
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    ),
    "macro": (
        "{% macro turn(m, mark='#') %}{{ mark }}{{ m.role }}: {{ m.content }}{% endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{{ turn(m, mark='>') }}{% endfor %}"
    ),
    "call block": (
        "{% macro box() %}[{{ caller() }}]{% endmacro %}{% for m in messages %}{% call box() %}"
        "{{ m.content }}{% endcall %}{% endfor %}"
    ),
    "break and continue": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
        "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "loop variables": (
        "{% for m in messages %}{{ loop.index0 }}/{{ loop.length }}"
        "{{ loop.previtem.role if not loop.first }}{{ loop.nextitem.role if not loop.last }}"
        "{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.cycle('x', 'y') }}"
        "{{ loop.changed(m.role) }};{% endfor %}"
    ),
    "for and if": "{% for m in messages if m.role != 'tool' %}{{ m.role }}{% else %}none{% endfor %}",
    "selectattr and map": (
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}"
        "{{ (messages | rejectattr('role', 'in', ['user', 'tool']) | list)[-1].role }}"
    ),
    "groupby": "{% for role, of in messages | groupby('role') %}{{ role }}{{ of | length }} {% endfor %}",
    "dictsort and items": (
        "{% for m in messages %}{% for k, v in m | dictsort %}{{ k }}{{ v is string }}{% endfor %}"
        "{% for k, v in m.items() %}{{ k }}{% endfor %}{% for k, v in m | items %}{{ k }}{% endfor %}"
        "{% endfor %}"
    ),
    "string methods": (
        "{% set c = messages[1].content %}{{ c.split(' ')[-1] }}{{ c.lstrip('W') }}{{ c.rstrip('?') }}"
        "{{ c.removeprefix('Wh') }}{{ c.removesuffix('?') }}{{ c.startswith('W') }}{{ c.endswith('?') }}"
        "{{ c.upper() }}{{ c.replace('a', 'b') }}{{ c.find('t') }}{{ c.partition(' ') }}{{ c.strip() }}"
        "{{ c.title() }}{{ c.count('a') }}{{ ', '.join(c.split()) }}{{ 'a{}b{x}'.format(c, x=1) }}"
        "{{ '%s-%d' % (c, 3) }}"
    ),
    "slices": (
        "{{ messages[1:] | length }}{{ messages[-1].content[:4] }}{{ messages[::-1][0].role }}"
        "{{ messages[1].content[::2] }}{{ messages[:-1] | length }}"
    ),
    "tests of types": (
        "{% for v in [messages, messages[0], 'a', 1, 1.5, none, true, nothing] %}{{ v is mapping }}"
        "{{ v is sequence }}{{ v is iterable }}{{ v is string }}{{ v is number }}{{ v is integer }}"
        "{{ v is none }}{{ v is boolean }}{{ v is true }}{{ v is defined }};{% endfor %}"
    ),
    "tojson": (
        "{{ tools | tojson }}{{ tools | tojson(indent=2) }}{{ tools[0] | tojson(ensure_ascii=True) }}"
        "{{ tools[0] | tojson(separators=(',', ':'), sort_keys=true) }}{{ '<&>\u2603' | tojson }}"
        "{{ 1.5e300 | tojson }}"
    ),
    "filters": (
        "{{ messages[1].content | trim | upper | replace('A', 'b') | indent(2) }}"
        "{{ messages | first | length }}{{ none | default('x', true) }}{{ [3, 1] | sort | join }}"
        "{{ ['a', 'a'] | unique | list }}{{ 'b' | string | int(7) }}"
        "{{ messages[1].content | truncate(9) | safe | escape }}{{ [1, 2, 3] | batch(2) | list }}"
        "{{ 3.7 | round | int }}{{ messages | last | attr('role') }}{{ 'abc' | list | reverse | join }}"
        "{{ [1, 2] | sum }}{{ 'a b' | wordcount }}"
    ),
    "white space": (
        "  {% if true %}\n  a\n    {%- if true -%}\n  b  \n{%- endif %}\n{% endif %}  {%+ if true %}"
        " c{% endif %}\n\n{# d #}\n\n"
    ),
    "raw and set blocks": "{% raw %}{{ no }}{% endraw %}{% set x %}a{{ messages | length }}{% endset %}{{ x ~ x }}",
    "inline if and operators": (
        "{{ 'a' if messages else 'b' }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 5 }}{{ 'ab' * 2 }}"
        "{{ 'a' in 'abc' }}{{ not true or false }}{{ 1 < 2 <= 2 }}{{ [1] + [2] }}{{ {'a': 1}['a'] }}"
        "{{ (1, 2)[0] }}"
    ),
    "dict": (
        "{{ dict(a=1, **{'b': 2}) | tojson }}{{ dict.fromkeys(['a'], 0) }}"
        "{{ dict([('c', 3)]).get('d', 'none') }}{{ {'a': 1}.keys() | list }}"
        "{{ {'a': 1}.values() | list }}"
    ),
    "range and joiner": (
        "{% set j = joiner(', ') %}{% for i in range(2, 9, 3) %}{{ j() }}{{ i }}{% endfor %}"
        "{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}\n{{ m.content }}"
        "!\n{% endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}|{{ unk_token is defined }}",
    "undefined": (
        "{{ nothing }}{{ messages[0].nothing }}{{ nothing is defined }}{{ messages[99] }}{{ nothing | default(1) }}"
    ),
    "date": "{{ strftime_now('%Y-%m-%d') }}{{ date_string | default('26 Jul 2024') }}",
}

MESSAGES = {
    "reasoning by either name": (
        "{% for m in messages %}<{{ m.reasoning_content }}|{{ m.thinking }}"
        ">{{ 'reasoning_content' in m }}{{ m.thinking is defined }}{% endfor %}"
    ),
    "which fields there are": (
        "{% for m in messages %}{{ 'tool_calls' in m }}{{ m.tool_calls is defined }}{{ m.name }}"
        "{{ m.get('name', '-') }}{{ m['tool_call_id'] | default('?') }}{{ 'content' in m }}"
        "{{ m.content is none }};{% endfor %}"
    ),
    "calls as values": (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.id }}{{ c.type }}"
        "{{ c.function.name }}{% for k, v in c.function.arguments | items %}<{{ k }}"
        ">{{ v if v is string else v | tojson }}</{{ k }}>{% endfor %}{% endfor %}{% endfor %}"
    ),
    "calls as JSON": (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c | tojson }}"
        "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}"
        "{% endfor %}{% endfor %}"
    ),
    "results by their call": (
        "{% for m in messages if m.role == 'tool' %}{{ m.tool_call_id[-2:] }}={{ m.content }}{% endfor %}"
    ),
    "content of either kind": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}"
    ),
    "thinking cut off": "{% for m in messages %}{{ (m.content.split('</think>') | last).lstrip('\\n') }}{% endfor %}",
    "last user first": (
        "{% set ns = namespace(at=-1) %}{% for m in messages[::-1] %}"
        "{% if ns.at < 0 and m.role == 'user' %}{% set ns.at = messages | length - 1 - loop.index0 %}"
        "{% endif %}{% endfor %}{{ ns.at }}{% for m in messages %}{{ loop.index0 > ns.at }}"
        "{{ m.content }}{% endfor %}"
    ),
    "generation prompt": (
        "{{ messages | length }}{{ '<a>' if add_generation_prompt else '</a>' }}{{ add_generation_prompt }}"
    ),
    "variables": (
        "{{ enable_thinking }}{{ reasoning_effort | default('medium') }}{{ builtin_tools | tojson }}"
        "{{ custom.deep[0].name }}{{ documents }}"
    ),
}

TOOLS = {
    "tools as a list": (
        "{% if tools %}{% for t in tools %}{{ t.function.name }}: {{ t.function.description }}"
        "\n{% for k, p in t.function.parameters.properties.items() %}{{ k }}"
        "{{ '' if k in (t.function.parameters.required or []) else '?' }}"
        " {{ p.type if p.type is string else p.type | join('|') }} {{ p.enum | default([]) | join(',') }}"
        "{{ p.description }}\n{% endfor %}{% endfor %}{% endif %}"
    ),
    "tools as JSON": (
        "{{ tools is none }}{{ tools | map(attribute='function') | list | tojson }}"
        "{{ tools | selectattr('type', 'equalto', 'function') | list | length }}"
    ),
    "a type for each": (
        "{% macro kind(s) %}{% if s.type == 'array' %}{{ kind(s['items']) }}"
        "[]{% elif s.type is iterable and s.type is not string %}{{ s.type | join(' | ') }}"
        '{% elif s.enum %}"{{ s.enum | join(\'" | "\') }}"{% else %}{{ s.type or "any" }}{% endif %}'
        "{% endmacro %}{% for t in tools %}{% for k, p in t.function.parameters.properties.items() %}"
        "{{ k }}: {{ kind(p) }},{% endfor %}{% endfor %}"
    ),
}

ALL = {**JINJA, **MESSAGES, **TOOLS}
