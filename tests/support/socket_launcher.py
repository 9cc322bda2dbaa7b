"""Starts a command as systemd does for a socket unit: DESCRIPTOR COMMAND...; the command has the socket as number 3."""

import os
import sys

descriptor, command = int(sys.argv[1]), sys.argv[2:]
if descriptor == 3:
    os.set_inheritable(3, True)
else:
    os.dup2(descriptor, 3, inheritable=True)
    os.close(descriptor)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="llm-scheduler.socket")
os.execv(command[0], command)
