"""slow.py PORT COUNT: opens COUNT connections that send one byte per second, half of them heads, half of them bodies.

Prints "ready" when all are connected, and runs until it is killed."""

import asyncio
import sys

HEAD = b"POST /webhooks/workflow-completed HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"


async def dribble(port, number, connected):
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            connected()
            rest = HEAD * 1000
            if number % 2:
                writer.write(HEAD)
                rest = b"{" * 100_000
            for byte in rest:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)
        except OSError:
            # Evicted: connect again.
            await asyncio.sleep(1)


async def main(port, count):
    there = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(dribble(port, number, there.release)) for number in range(count)]
    for _ in range(count):
        await there.acquire()
    print("ready", flush=True)
    await asyncio.gather(*tasks)


asyncio.run(main(*map(int, sys.argv[1:])))
