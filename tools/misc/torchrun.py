# SPDX-License-Identifier: Apache-2.0
"""torchrun, for several machines whatever their names mean, and with the exit
status of the signal that ended it.

Used by tools/dist_*.sh. The processes meet at the address that torchrun and
gloo look up for the machine's own name. On many machines /etc/hosts says that
it is 127.0.0.1, and then those on other machines wait for ever. Here it is the
address of the way to MASTER_ADDR, or of the interface GLOO_SOCKET_IFNAME.
"""
import fcntl
import os
import socket
import struct
import sys
from contextlib import suppress

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.run import main

SIOCGIFADDR = 0x8915  # Linux' request for the address of an interface
ELSEWHERE = '192.0.2.1'  # RFC 5737: no machine has it


# Options that tools/dist_*.sh fill: what a user gave, and the least it can be.
NUMBERS = {'--nproc_per_node': ('GPUS', 1), '--nnodes': ('NNODES', 1),
           '--rdzv_id': ('PORT', 0)}


def require_numbers(options):
    """One message where torchrun would have a traceback."""
    for option, _, value in (word.partition('=') for word in options):
        name, least = NUMBERS.get(option, (None, 0))
        if name and not (value.isdecimal() and least <= int(value) < 2**16):
            sys.exit(f'error: {name} must be a whole number from {least} to '
                     f'{2**16 - 1}, got {value!r}: see the first lines of '
                     'tools/dist_train.sh and dist_test.sh')


def own_address(target):
    """The IPv4 address from which packets to another one leave."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((target, 9))  # sends nothing
        return s.getsockname()[0]


def interfaces():
    """IPv4 address of each interface that has one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for _, name in socket.if_nameindex():
            request = struct.pack('256s', name.encode())
            try:
                answer = fcntl.ioctl(s, SIOCGIFADDR, request)
            except OSError:
                continue
            found[name] = socket.inet_ntoa(answer[20:24])
    return found


def set_address():
    """Options of torchrun; gloo takes the interface from the environment."""
    found = interfaces()
    chosen = os.environ.get('GLOO_SOCKET_IFNAME')
    if chosen is not None:
        return ['--local_addr', found[chosen]] if chosen in found else []
    master = os.environ['MASTER_ADDR']
    try:
        address = own_address(master)
    except OSError as error:
        sys.exit(f'error: MASTER_ADDR={master} cannot be reached from here: '
                 f'{error}')
    if address.startswith('127.'):  # number 0 looks up its own name, too
        with suppress(OSError):
            address = own_address(ELSEWHERE)
    for name, has in found.items():
        if has == address:
            os.environ['GLOO_SOCKET_IFNAME'] = name
    return ['--local_addr', address]


if __name__ == '__main__':
    # the store outlives a restart of the processes, which then may read the
    # address of one that has died and be refused there: take a new one
    os.environ.setdefault('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
    require_numbers(sys.argv[1:])
    several = int(os.environ['NNODES']) > 1
    try:
        main([*(set_address() if several else []), *sys.argv[1:]])
    except SignalException as error:  # its own exit status would be 1
        sys.exit(128 + error.sigval)
