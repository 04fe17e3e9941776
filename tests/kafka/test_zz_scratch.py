import asyncio, random, pytest
from pitr.adapters.sinks import kafka_publisher as kp
from tests.kafka import test_sink_kafka as t
from tests.fakes import FakeState

async def test_x(broker, monkeypatch):
    made = []
    orig = kp.Publisher.__init__
    def init(self, *a):
        orig(self, *a); made.append(self)
    monkeypatch.setattr(kp.Publisher, "__init__", init)
    rows = [(f'{{"id":{n}}}', f'{{"t":"{t.uuid4().hex * 3000}"}}') for n in range(60)]
    rng = random.Random(5)
    stats = {}
    for n in range(250):
        made.clear()
        topic = t.fresh()
        w = asyncio.ensure_future(t.write(FakeState({"c": rows}), t.url(broker, topic)))
        await asyncio.wait([w], timeout=rng.random() * 0.4)
        if w.done():
            stats["done"] = stats.get("done", 0) + 1; continue
        committing = bool(made) and made[0].committing
        w.cancel()
        where = [f"{f.f_code.co_name}" for f in w.get_stack()]
        c = w.get_coro(); chain = []
        while c is not None and hasattr(c, "cr_await"):
            chain.append(c.cr_code.co_name); c = c.cr_await
        await asyncio.wait([w])
        there = topic in await t.topics(broker)
        key = (bool(made), committing, w.cancelled(), there)
        if there and not committing:
            await asyncio.sleep(1); again = topic in await t.topics(broker)
            seen = len((await t.consumed(broker, topic, 0)).get(0, [])) if again else None
            print("STATS", chain, again, seen)
        stats[key] = stats.get(key, 0) + 1
    print("STATS publisher,committing,cancelled,there", stats)
