"""Values of every type that PostgreSQL has, hostile ones first, as SQL expressions."""

from __future__ import annotations

from itertools import chain
from typing import Any

import asyncpg

EXTENSIONS = ("citext", "cube", "hstore", "isn", "ltree", "seg", "vector")

SETUP = r'''
CREATE SCHEMA "Odd ""Types""";
CREATE TYPE mood AS ENUM ('sad', 'so so', '"it''s", {\}', 'NULL', '', 'é😀');
CREATE TYPE "Odd ""Types"""."Level, 1" AS ENUM ('low', 'high');
CREATE DOMAIN price AS numeric(10, 2) CHECK (VALUE > 0);
CREATE DOMAIN quantity AS int;
CREATE DOMAIN few AS quantity CHECK (VALUE < 100);
CREATE DOMAIN yes_no AS boolean;
CREATE DOMAIN ints AS int[];
CREATE DOMAIN document AS jsonb;
CREATE DOMAIN feeling AS mood;
CREATE TYPE pair AS (a int, "b ""c""" text);
CREATE DOMAIN couple AS pair;
CREATE TYPE nested AS (p pair, q pair[], at timestamptz, doc jsonb, m mood, body bytea, f float8);
CREATE TYPE one AS (a text);
CREATE TYPE nothing AS ();
CREATE TABLE shape (a int, b text, c int);
ALTER TABLE shape DROP COLUMN b;
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE TYPE floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
'''

INTEGERS = ["0", "-1", "1"]
WORDS = [
    "''",
    "' '",
    "'null'",
    "'NULL'",
    r"'\N'",
    r"'\.'",
    r"'a\\b\nc\'",
    "E'tab\\there\\nnew line\\r\\nreturn\\rend'",
    "E'\\b\\f\\v\\x01\\x1f\\x7f'",
    "'it''s \"quoted\" {a,b} (c) [d] <e> & $f'",
    "'é漢𝄞😀'",
    "E'\\u2028\\u2029\\u0085\\u00a0\\ufeff\\u200b'",
    "(SELECT string_agg(chr(n), '') FROM generate_series(1, 127) n)",
    "repeat('long \"\\', 3000)",
    "'{\"a\": 1}'",
    "'12'",
    "'true'",
]
JSON = [
    "'null'",
    "'true'",
    "'0'",
    "'-0'",
    "'\"text\"'",
    "'\"null\"'",
    "'\"\"'",
    "'{}'",
    "'[]'",
    "'1e400'",
    "'1.10'",
    "'123456789012345678901234567890.123456789012345678901234567890'",
    r"""'"{\"a\": 1}"'""",
    r"""'"\\\" \u00e9 \n \/ é 😀"'""",
    """'{"b": 1.10, "a": [1, {"x": null}], "": {"": ""}}'""",
    "repeat('[', 200)||repeat(']', 200)",
]

TYPES: dict[str, list[str]] = {
    # Numbers
    "smallint": [*INTEGERS, "-32768", "32767"],
    "integer": [*INTEGERS, "-2147483648", "2147483647"],
    "bigint": [*INTEGERS, "'-9223372036854775808'", "9223372036854775807"],
    "oid": ["0", "'4294967295'"],
    "numeric": [
        "0",
        "'-0.0'",
        "'1.10'",
        "1e-500",
        "-1e500",
        "'0e-16383'",
        "'1e-16383'",
        "'1e131071'",
        "repeat('9', 700) || '.' || repeat('9', 700)",
        "'1234567890123456789012345678901234567.890'",
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
    ],
    "numeric(10,2)": ["12.5", "-99999999.99", "0", "'NaN'"],
    "numeric(1000,1000)": ["1e-1000"],
    "numeric(5,-2)": ["12345"],
    "numeric(3,5)": ["0.00123"],
    "real": [
        "'3.4028235e38'",
        "'1e-45'",
        "'1.1754942e-38'",
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
        "'-0'",
        "0",
        "0.1",
        "16777216",
        "1e6",
        "1.5e7",
        "0.0001",
        "0.00001",
    ],
    "double precision": [
        "0.1",
        "'-0'",
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
        "'5e-324'",
        "'2.2250738585072011e-308'",
        "'1.7976931348623157e308'",
        "0.30000000000000004",
        "123456789.123456789",
        "1e15",
        "1e16",
        "1e22",
        "1e23",
        "1e-5",
        "0.0001",
        "3",
    ],
    "money": ["'12.34'", "'-1234567.89'", "0", "'92233720368547758.07'", "'-92233720368547758.08'"],
    "boolean": ["true", "false"],
    # Texts
    "text": WORDS,
    "varchar": WORDS,
    "varchar(5)": ["''", "'abc  '", "'é漢𝄞😀x'", "'  a'"],
    "char(5)": ["''", "'abc'", "'  a'", "'é漢𝄞😀'"],
    "char": ["' '", "'x'", "'\"'", r"'\'"],
    '"char"': ["'x'", "''", "' '", "'\"'", r"'\'", "E'\\n'"],
    "name": ["'name'", "''", "'a \"b\" \\c'", "repeat('é', 31)"],
    "citext": WORDS,
    "bytea": [
        r"'\x'",
        r"'\x00'",
        r"'\x00ff5c6e27220a'",
        "decode(string_agg_hex(), 'hex')",
        "decode(repeat('5c00', 5000), 'hex')",
    ],
    "uuid": [
        "'00000000-0000-0000-0000-000000000000'",
        "'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    ],
    "json": [
        *JSON,
        '\'{ "b": 1,\n\t"b" : [1, 2],  "a":{} }\'',
        r"""'"\u0000 \ud800 \udc00"'""",
        "'  1.0E+2  '",
        "repeat('9', 5000)",
    ],
    "jsonb": JSON,
    "jsonpath": ["'$'", '\'strict $."a b"[*] ? (@.x > 1.10 && @.y like_regex "^\\\\d")\''],
    "xml": [
        "'<a/>'",
        "''",
        "'text'",
        "'<a b=\"c\">é😀 &amp; <![CDATA[<]]></a>\n<b/>'",
        "'<!-- x -->'",
    ],
    "bit(3)": ["B'101'", "B'000'"],
    "bit": ["B'1'", "B'0'"],
    "bit varying": ["B''", "B'1'", "B'10101'", "repeat('10', 500)::bit varying"],
    "bit varying(5)": ["B''", "B'10101'"],
    # Times
    "date": [
        "'2026-03-01'",
        "'infinity'",
        "'-infinity'",
        "'0044-03-15 BC'",
        "'4714-11-24 BC'",
        "'5874897-12-31'",
        "'10000-01-01'",
        "'0001-01-01'",
    ],
    "time": ["'00:00'", "'24:00'", "'09:30:00.250001'", "'23:59:59.999999'", "'09:30:00.1'"],
    "time(3)": ["'09:30:00.25'"],
    "timetz": [
        "'00:00:00+00'",
        "'24:00:00-15:59:59'",
        "'09:30:00.250001+05:30'",
        "'09:30:00+15:59:59'",
        "'09:30:00.1-03'",
    ],
    "timestamp": [
        "'2026-03-01 09:30:00'",
        "'2026-03-01 09:30:00.250001'",
        "'2026-03-01 00:00:00'",
        "'infinity'",
        "'-infinity'",
        "'4714-11-24 00:00:00 BC'",
        "'0044-03-15 12:00:00.5 BC'",
        "'294276-12-31 23:59:59.999999'",
        "'1969-12-31 23:59:59.999999'",
    ],
    "timestamp(3)": ["'2026-03-01 09:30:00.25'"],
    "timestamptz": [
        "'2026-03-01 09:30:00.250001+02'",
        "'2026-03-01 00:00:00+00'",
        "'infinity'",
        "'-infinity'",
        "'4714-11-24 00:00:00+00 BC'",
        "'0044-03-15 12:00:00.5+00 BC'",
        "'294276-12-31 23:59:59.999999+00'",
        "'1800-01-01 00:00:00 Europe/Berlin'",
    ],
    "timestamptz(0)": ["'2026-03-01 09:30:00.7+02'"],
    "interval": [
        "'0'",
        "'1 year 2 mons -3 days 04:05:06.789'",
        "'-1 year +2 mons 3 days -04:05:06.789001'",
        "'-1 microsecond'",
        "'1 mon -1 day'",
        "'100:00:00'",
        "'-1000000 years -8 mons -2147483 days -2562047:00:54.775807'",
    ],
    "interval year to month": ["'1 year 2 mons'"],
    "interval second(2)": ["'1.25 seconds'"],
    # Ranges
    "int4range": ["'[1,5)'", "'empty'", "'(,)'", "'[,5)'", "'[-1,]'"],
    "int8range": ["'[1,9223372036854775807)'"],
    "numrange": ["'[1.10,2.200]'", "'(NaN,NaN]'", "'[-Infinity,Infinity]'", "'(,1e-30)'"],
    "daterange": ["'[2026-03-01,infinity)'", "'[0044-03-15 BC,2026-01-01)'"],
    "tsrange": ["'[2026-03-01 09:30,2026-03-01 10:00:00.5)'", "'(,infinity]'"],
    "tstzrange": ["'[2026-03-01 09:30+02,)'", "'[0044-03-15 12:00+00 BC,2026-01-01 00:00+00]'"],
    "textrange": ["""'["a ""b"", c","x)\\\\("]'""", "'[\"\",a)'", "textrange(chr(10), 'é')"],
    "floatrange": ["'[-0,1e-300)'", "'[0.1,Infinity]'"],
    "int4multirange": ["'{}'", "'{[1,3),[5,)}'"],
    "int8multirange": ["'{[-9223372036854775808,9223372036854775807)}'"],
    "nummultirange": ["'{[1.5,2],(3,)}'"],
    "tsmultirange": ["'{[2026-03-01 09:30,infinity]}'"],
    "datemultirange": ["'{[2026-03-01,2026-03-05),[2027-01-01,)}'"],
    "tstzmultirange": ["'{[2026-03-01 09:30+02,2026-03-02 00:00+00)}'"],
    "textmultirange": ["textmultirange(textrange('a', 'b, \"c'), textrange('x', NULL))"],
    # Networks, geometry, texts to search
    "inet": ["'192.168.0.1/24'", "'::1'", "'10.0.0.0'", "'::ffff:1.2.3.4/128'", "'0.0.0.0/0'"],
    "cidr": ["'10.0.0.0/8'", "'::/0'", "'2001:db8::/32'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "macaddr8": ["'08:00:2b:01:02:03:04:05'"],
    "point": ["'(1.5,-2)'", "'(NaN,Infinity)'", "'(-0,1e-300)'", "'(0.1,0.30000000000000004)'"],
    "line": ["'{1,-1,0.1}'"],
    "lseg": ["'[(1,2),(3,4.5)]'"],
    "box": ["'(3,4),(1,2)'"],
    "path": ["'((0,0),(1,1),(2,0))'", "'[(0,0),(1,1)]'", "'((1,2))'"],
    "polygon": ["'((0,0),(1,1),(2,0))'"],
    "circle": ["'<(1,2),3.5>'", "'<(1,2),0>'"],
    "tsvector": [
        "'''a'':1 ''b c'':2A,3 ''it''''s'' ''\\\\'''",
        "''",
        "to_tsvector('The fat cats')",
    ],
    "tsquery": ["'a & !b'", "'''it''''s'' <2> ''b c'':A* | (c & d)'", "''"],
    # Made of others
    "mood": ["'so so'", "'\"it''s\", {\\}'", "'NULL'", "''", "'é😀'"],
    '"Odd ""Types"""."Level, 1"': ["'low'"],
    "price": ["12.34"],
    "few": ["7", "-7"],
    "yes_no": ["true", "false"],
    "ints": ["'{1,NULL,3}'", "'{}'", "'[0:1]={1,2}'"],
    "document": JSON,
    "feeling": ["'sad'"],
    "pair": [
        "'(1,x)'",
        "'(,)'",
        "'(1,\"\")'",
        "ROW(-1, 'a \"b\", (c) \\ ''d''')",
        "ROW(NULL, E'\\n\\t')",
    ],
    "couple": ["'(1,x)'"],
    "nested": [
        "ROW(ROW(1, 'a, \"b\" \\'), ARRAY[ROW(2, 'x,y')::pair, NULL], '2026-03-01 09:30+02',"
        " '{\"a\": \"b\\\\\"}', 'so so', '\\x00ff', 0.1)",
        "ROW(NULL, '{}', NULL, 'null', NULL, '', '-0')",
    ],
    "one": ["ROW('')", "ROW(NULL)", "ROW('a')"],
    "nothing": ["'()'"],
    "shape": ["ROW(1, 2)"],
    "hstore": ["''", '\'a=>1, "b \\"c\\""=>NULL, d=>"NULL", e=>"", "=>"=>"é, 😀"\''],
    "ltree": ["'top.science_1.a'", "''"],
    "lquery": ["'*.top@*{1,2}.!a|b'"],
    "cube": ["'(1,2),(3,4.5)'"],
    "seg": ["'1.10 .. 2.5'", "'<5'"],
    "isbn": ["'978-0-306-40615-7'"],
    "vector(3)": ["'[1,2.5,-3e-07]'"],
    # Arrays
    "integer[]": [
        "'{1,NULL,3}'",
        "'{}'",
        "'{{1,2},{3,4}}'",
        "'{{{1},{2}},{{3},{NULL}}}'",
        "'[2:3]={1,2}'",
        "'[-1:0][5:6]={{1,2},{3,4}}'",
        "'{-2147483648,2147483647}'",
    ],
    "smallint[]": ["'{1,-1}'"],
    "bigint[]": ["'{9223372036854775807}'"],
    "oid[]": ["'{4294967295}'"],
    "integer[3][3]": ["'{{1,2},{3,4}}'"],
    "text[]": [
        r"""ARRAY['a"b\c', 'NULL', 'null', '', NULL, '{x,y}', E'n\nl', ' ', 'a,b', '12', 'é😀']""",
        "'{}'",
        "'{a,b}'",
        '\'{{a,"b c"},{NULL,""}}\'',
        r"""'[0:1]={"a\\b",c}'""",
        "'{NULL}'",
        "'{null,\"null\",NuLL}'",
        "'{\"\"}'",
    ],
    "varchar(3)[]": ["'{abc,\"d  \"}'"],
    "char(3)[]": ["'{a,\"\"}'"],
    '"char"[]': ["'{x,\"\"}'"],
    "name[]": ["'{a,\"b c\"}'"],
    "citext[]": ["'{A,a}'"],
    "numeric[]": ["'{1.50,NaN,NULL,-Infinity}'", "'{0.0,1e-30}'", "'{1,2}'", "'{{1.0},{2}}'"],
    "numeric(10,2)[]": ["'{1.5,2.00}'"],
    "real[]": ["'{0.1,-0,NaN,1e-45}'"],
    "double precision[]": ["'{0.1,-0,5e-324}'", "'{NaN,Infinity}'", "'[0:0]={1e+22}'"],
    "money[]": ["'{\"$1,234.50\",-1}'"],
    "boolean[]": ["'{t,f,NULL}'", "'{{t},{f}}'", "'{}'"],
    "json[]": [r"""ARRAY['{ "a": [1, 2] }', 'null', NULL, '"x"', '1.0']::json[]""", "'{}'"],
    "jsonb[]": [r"""ARRAY['{"a": "b\"c"}', '[1]', 'null', NULL, '"null"']::jsonb[]"""],
    "bytea[]": [r"""ARRAY['\x00ff'::bytea, '', NULL]"""],
    "uuid[]": ["'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'"],
    "date[]": ["'{2026-03-01,infinity,0044-03-15 BC}'"],
    "timestamp[]": ["'{2026-03-01 09:30:00.25,NULL}'"],
    "timestamptz[]": ["'{2026-03-01 09:30:00+00,infinity}'"],
    "timetz[]": ["'{09:30:00+02}'"],
    "interval[]": ["'{1 day -00:00:01,00:00:00}'"],
    "inet[]": ["'{::1,10.0.0.1/8}'"],
    "bit(3)[]": ["'{101,000}'"],
    "point[]": ['\'{"(1,2)","(3,-0)"}\''],
    "box[]": ["'{(3,4),(1,2);(1,1),(0,0)}'", "'{}'", "'[2:2]={(3,4),(1,2)}'"],
    "tsvector[]": ["ARRAY['''a'':1'::tsvector]"],
    "int4range[]": ["'{\"[1,5)\",empty,NULL}'"],
    "int4multirange[]": ["ARRAY['{[1,3),[5,)}'::int4multirange]"],
    "mood[]": ["ARRAY['so so', '\"it''s\", {\\}', 'NULL', '', NULL]::mood[]", "'{sad,sad}'"],
    "few[]": ["'{7,NULL}'"],
    "yes_no[]": ["'{t,f}'"],
    "price[]": ["'{1.50}'"],
    "ints[]": ["ARRAY['{1,2}'::ints, '{}'::ints, NULL]"],
    "document[]": ["ARRAY['{\"a\": 1}', 'null']::document[]"],
    "pair[]": ["ARRAY[ROW(1, 'a \"b\", \\'), ROW(NULL, NULL), NULL]::pair[]"],
    "couple[]": ["ARRAY[ROW(1, 'x')]::couple[]"],
    "nested[]": [
        "ARRAY[ROW(ROW(1, 'x'), ARRAY[ROW(2, 'y,')::pair], NULL, '[]', NULL, NULL, 1)]::nested[]"
    ],
    "hstore[]": ["ARRAY['a=>1, b=>NULL'::hstore]"],
    "xml[]": ["ARRAY['<a b=\"c\"/>'::xml]"],
    "int2vector": ["'1 2 3'", "''"],
    "oidvector": ["'23 4294967295'"],
    # Of the system
    "pg_lsn": ["'16/B374D848'", "'0/0'", "'FFFFFFFF/FFFFFFFF'"],
    "xid": ["'4294967295'"],
    "xid8": ["'18446744073709551615'"],
    "cid": ["'7'"],
    "tid": ["'(0,1)'", "'(4294967295,65535)'"],
    "txid_snapshot": ["'10:20:10,14,15'"],
    "pg_snapshot": ["'10:20:10,14,15'", "'10:10:'"],
    "refcursor": ["'a \"cursor\"'"],
    "aclitem": ["'=r/postgres'"],
    "regclass": ["'shape'", "'pg_class'", "'0'", "'999999999'"],
    "regtype": ["'mood'", "'character varying'", "'integer[]'"],
    "regproc": ["'now'"],
    "regoper": ["'||/'"],
    "regdictionary": ["'simple'"],
    "regprocedure": ["'abs(integer)'", "'string_agg_hex()'"],
    "regoperator": ["'*(integer,integer)'"],
    "regnamespace": ["'public'", '\'"Odd ""Types"""\''],
    "regrole": ["'postgres'"],
    "regcollation": ["'\"C\"'"],
    "regconfig": ["'english'"],
    "regclass[]": ["'{shape,pg_class}'"],
}
"""By the type's name in SQL."""

SINCE: dict[str, dict[int, list[str]]] = {
    "interval": {
        15: [
            "'-178956970 years -8 mons -2147483648 days -2562047788:00:54.775807'",
            "'178956970 years 7 mons 2147483647 days 2562047788:00:54.775807'",
        ],
        17: ["'infinity'", "'-infinity'"],
    },
    '"char"': {15: [r"'\200'", r"'\377'"]},
}
"""Values that only later versions have."""

SOME_ONLY = ("numeric(5,-2)", "numeric(3,5)")
"""Types that PostgreSQL 14 does not know."""

OF_EXTENSIONS = ("citext", "cube", "hstore", "isbn", "lquery", "ltree", "seg", "vector")

FUNCTIONS = """
CREATE FUNCTION string_agg_hex() RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT string_agg(lpad(to_hex(n), 2, '0'), '' ORDER BY n) FROM generate_series(0, 255) n $$
"""


async def types_of(connection: Any) -> tuple[dict[str, list[str]], list[str]]:
    """Make what the types need; return the types that this server has, and those that it lacks."""
    await connection.execute(SETUP + FUNCTIONS)
    await make_extensions(connection)
    major = int(await connection.fetchval("SHOW server_version_num")) // 10_000
    found: dict[str, list[str]] = {}
    lacking: list[str] = []
    for name, values in TYPES.items():
        if await is_usable(connection, name, values[0]):
            later = [more for since, more in SINCE.get(name, {}).items() if major >= since]
            found[name] = [*values, *chain.from_iterable(later)]
        else:
            lacking.append(name)
    return found, lacking


async def make_extensions(connection: Any) -> None:
    """Make those extensions that the server has."""
    available = await connection.fetch("SELECT name FROM pg_available_extensions")
    for name in sorted(set(EXTENSIONS) & {name for (name,) in available}):
        await connection.execute(f"CREATE EXTENSION {name}")


async def is_usable(connection: Any, type_: str, value: str) -> bool:
    """Tell whether the server has a type that not every one has.

    ``xml`` is there even where the server was built without it, but takes no value.
    """
    known = type_.partition("[")[0].partition("(")[0] not in ("xml", *OF_EXTENSIONS)
    if known and type_ not in SOME_ONLY:
        return True
    try:
        await connection.fetchval(f"SELECT ({value})::{type_}::text")
    except asyncpg.PostgresError:
        return False
    return True
