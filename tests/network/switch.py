"""A network between network namespaces, as bad as it is told to be: it carries IPv4 packets between TUN devices, and reads commands.

    switch.py NAME=ADDRESS…     the devices, which it makes; whoever starts it moves them to their namespaces

    cut A B     nothing passes between two of them any more, in either direction
    heal        everything passes at once
    bad MS %    every packet takes so long, and up to twice as long, and so many of a hundred are lost
"""

import fcntl, heapq, os, random, select, struct, sys, time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def device(name):
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        sys.exit(f"{error}: this suite needs TUN devices (modprobe tun), and to be root in its namespaces")
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def deliver(tun, packet):
    try:
        os.write(tun, packet)
    except OSError:
        pass  # Its namespace has not taken it up yet, or its queue is full: lost, as on any network.


nodes = dict(argument.split("=") for argument in sys.argv[1:])
tuns = {name: device(name) for name in nodes}
names = {tun: name for name, tun in tuns.items()}
places = {bytes(map(int, address.split("."))): name for name, address in nodes.items()}
cuts, delay, loss = set(), 0.0, 0.0
under_way, count, dice = [], 0, random.Random(1)
commands = b""


def obey(words):
    global cuts, delay, loss
    if words[0] == "cut":
        cuts.add(frozenset(words[1:]))
    elif words[0] == "heal":
        cuts, delay, loss = set(), 0.0, 0.0
    elif words[0] == "bad":
        delay, loss = float(words[1]) / 1000, float(words[2]) / 100
    print("done", flush=True)


def carry(source):
    global count
    try:
        packet = os.read(source, 65536)
    except BlockingIOError:
        return
    target = places.get(packet[16:20])
    if packet[0] >> 4 != 4 or target is None or frozenset((names[source], target)) in cuts or dice.random() < loss:
        return
    if not delay:
        return deliver(tuns[target], packet)
    count += 1
    heapq.heappush(under_way, (time.monotonic() + delay * (1 + dice.random()), count, tuns[target], packet))


print("ready", flush=True)
while True:
    wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
    readable, _, _ = select.select([*names, 0], [], [], wait)
    for source in readable:
        if source != 0:
            carry(source)
            continue
        said = os.read(0, 4096)
        if not said:
            sys.exit()
        *whole, commands = (commands + said).split(b"\n")
        for line in whole:
            obey(line.decode().split())
    while under_way and under_way[0][0] <= time.monotonic():
        _, _, tun, packet = heapq.heappop(under_way)
        deliver(tun, packet)
