"""What a new table takes over at the exchange, as statements: rights, triggers, rules, comments.

All of them only write to the catalogs. They are meant for a table that bears the live name by now,
so whatever PostgreSQL printed of the live one holds as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pitr.adapters.sinks.postgres.rebound import literal
from pitr.adapters.sinks.postgres.swap.picture import Facts, Picture
from pitr.adapters.sinks.postgres.tables import TableName, quoted

_COMMANDS: Final = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}
_ENABLED: Final = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


def carried(picture: Picture) -> Iterator[str]:
    """Everything but grants, publications and foreign keys."""
    table = picture.name.quoted
    for trigger in picture.parts["triggers"]:
        if not trigger["cloned"]:
            yield trigger["definition"]
    for rule in picture.parts["rules"]:
        yield rule["definition"]
        if rule["enabled"] != "O":
            yield f"ALTER TABLE {table} {_ENABLED[rule['enabled']]} RULE {quoted(rule['name'])}"
    for policy in picture.parts["policies"]:
        yield _policy(table, policy)
    yield from _marks(picture)


def switched(picture: Picture) -> Iterator[str]:
    """The triggers that are not simply on; after all are made, those of partitions too."""
    for trigger in picture.parts["triggers"]:
        if trigger["enabled"] != "O":
            how = f"{_ENABLED[trigger['enabled']]} TRIGGER {quoted(trigger['name'])}"
            yield f"ALTER TABLE ONLY {picture.name.quoted} {how}"


def _policy(table: str, policy: Facts) -> str:
    kind = "PERMISSIVE" if policy["permissive"] else "RESTRICTIVE"
    statement = (
        f"CREATE POLICY {quoted(policy['name'])} ON {table} AS {kind}"
        f" FOR {_COMMANDS[policy['command']]} TO {', '.join(policy['roles'])}"
    )
    statement += f" USING ({policy['visible']})" if policy["visible"] else ""
    return statement + (f" WITH CHECK ({policy['writable']})" if policy["writable"] else "")


def _marks(picture: Picture) -> Iterator[str]:
    facts, altering = picture.facts, f"ALTER TABLE ONLY {picture.name.quoted}"
    if facts["secured"]:
        yield f"{altering} ENABLE ROW LEVEL SECURITY"
    if facts["forced"]:
        yield f"{altering} FORCE ROW LEVEL SECURITY"
    if facts["identity"] in ("f", "n"):
        yield f"{altering} REPLICA IDENTITY {'FULL' if facts['identity'] == 'f' else 'NOTHING'}"
    for index in picture.parts["indexes"]:
        if index["identifies"] and facts["identity"] == "i":
            yield f"{altering} REPLICA IDENTITY USING INDEX {quoted(index['name'])}"
        if index["clustered"]:
            yield f"ALTER TABLE {picture.name.quoted} CLUSTER ON {quoted(index['name'])}"


def comments(picture: Picture) -> Iterator[str]:
    """The comments on the table and on everything that belongs to it."""
    table, schema = picture.name.quoted, picture.name.schema
    yield from _comment("TABLE", table, picture.facts)
    for column in picture.parts["columns"]:
        yield from _comment("COLUMN", f"{table}.{quoted(column['name'])}", column)
    for part, word in (
        ("constraints", "CONSTRAINT"),
        ("triggers", "TRIGGER"),
        ("policies", "POLICY"),
        ("rules", "RULE"),
    ):
        for each in picture.parts[part]:
            yield from _comment(word, f"{quoted(each['name'])} ON {table}", each)
    for index in picture.parts["indexes"]:
        yield from _comment("INDEX", TableName(schema, index["name"]).quoted, index)
    for each in picture.parts["statistics"]:
        yield from _comment("STATISTICS", TableName(each["schema"], each["name"]).quoted, each)
    for each in picture.parts["sequences"]:
        if each["is_identity"]:
            yield from _comment("SEQUENCE", TableName(each["schema"], each["name"]).quoted, each)


def _comment(word: str, name: str, facts: Facts) -> Iterator[str]:
    if facts["comment"] is not None:
        yield f"COMMENT ON {word} {name} IS {literal(facts['comment'])}"


def unpublished(picture: Picture) -> Iterator[str]:
    """Take a table out of the publications that name it."""
    for each in picture.parts["publications"]:
        yield f"ALTER PUBLICATION {quoted(each['name'])} DROP TABLE {picture.name.quoted}"


def published(picture: Picture) -> Iterator[str]:
    """Put a table into the publications that named the one before it."""
    for each in picture.parts["publications"]:
        columns = ", ".join(map(quoted, each["columns"] or ()))
        statement = f"ALTER PUBLICATION {quoted(each['name'])} ADD TABLE {picture.name.quoted}"
        statement += f" ({columns})" if columns else ""
        yield statement + (f" WHERE ({each['filter']})" if each["filter"] else "")


def granted(
    kind: str, name: TableName, wanted: Sequence[Facts], present: Iterable[Facts], *, owner: str
) -> Iterator[str]:
    """The rights that the one before it had, and no others, each from whom it came."""
    given = list(present)
    if given == list(wanted):
        return
    for grantee in sorted({each["grantee"] for each in given} | {quoted(owner)}):
        yield f"REVOKE ALL ON {kind} {name.quoted} FROM {grantee} CASCADE"
    for each in wanted:
        columns = f" ({quoted(each['column'])})" if each["column"] else ""
        option = " WITH GRANT OPTION" if each["grantable"] else ""
        if each["grantor"] != owner:
            yield f"SET LOCAL ROLE {quoted(each['grantor'])}"
        yield (
            f"GRANT {each['privilege']}{columns} ON {kind} {name.quoted}"
            f" TO {each['grantee']}{option}"
        )
        if each["grantor"] != owner:
            yield "SET LOCAL ROLE NONE"
