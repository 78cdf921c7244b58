"""The peak memory of a program, as text for a process of its own."""

PEAK = '''
def peak():
    """Bytes. What getrusage says begins with the peak of the process that started this one, so it comes second."""
    import resource, sys
    from pathlib import Path

    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
'''
