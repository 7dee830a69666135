"""A device of which only so much fits at once, without one: what asks for more runs out of memory as on an accelerator."""

import torch


class SmallMemory:
    """Runs ``compute`` where what it is asked for fits, and notes how much that was, each time.

    Args:
        most: how many fit at once.
        count: says of the arguments of a call how many it works on.
        compute: what runs then.
    """

    def __init__(self, most, count, compute):
        self.most, self.count, self.compute = most, count, compute
        self.sizes = []

    def __call__(self, *arguments, **named):
        size = self.count(*arguments, **named)
        if size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate as much as a test wants.")
        self.sizes.append(size)
        return self.compute(*arguments, **named)


def let_few_fit(monkeypatch, owner, name, most, count):
    """Let no more than ``most`` fit into calls of ``owner.name``, which is a method or a function; return the memory."""
    memory = SmallMemory(most, count, getattr(owner, name))
    replacement = (lambda self, *a, **k: memory(self, *a, **k)) if isinstance(owner, type) else memory
    monkeypatch.setattr(owner, name, replacement)
    return memory
