from datetime import datetime, UTC
async def test_probe(house):
    hour = (datetime.now(UTC).hour + 12) % 24
    for n in range(30):
        await house.define(f"n{n}")
    await house.define("moving", cron=f"0 {hour} * * *")
    await house.settle()
    bad = []
    for k in range(1, 60):
        await house.change("moving", cron=f"{k} {hour} * * *")
        await house.settle()
        runs = await house.runs("moving")
        if {r.minute for r in runs} != {k}:
            bad.append((k, [r.isoformat() for r in runs]))
    import asyncio
    print("BAD", len(bad), bad[:3])
    await asyncio.sleep(6)
    runs = await house.runs("moving")
    print("END", [r.isoformat() for r in runs], len((await house.reconciler.sweep()).outcomes))
