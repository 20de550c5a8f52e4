"""What the host and a fork server say to each other: records of fixed size.

In: numbers; out: the bytes of one message, and back. Descriptors travel beside
a request (`zygote` says which). Not JSON: the server copies each page that it
writes to between two forks, and that was twice as many with JSON's objects.
"""

import struct

# Operations: run a program (its output is read, or it answers calls), start a
# tester, end the program, end the tester.
STDIO, CALLS, TESTER, STOP, DROP = range(5)

# Operation, seconds (until the program is ended; of grace), and the limits:
# CPU seconds, bytes of address space, bytes of a file.
REQUEST = struct.Struct('<BdQQQ')

# How the program was ended by the server, whether it was set up before (so
# that the status is its own), its wait status, its CPU seconds.
RAN, TIMEOUT, STOPPED = range(3)
REPLY = struct.Struct('<B?id')
# Instead, where there was none: this and why. It is longer than a reply.
NOT_STARTED = 'no child could be started: '
