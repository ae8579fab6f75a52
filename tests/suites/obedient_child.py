"""`python -m tests.suites.obedient_child`: a child of run_child() that does what its request says, in Python."""

from servicekit.children import serve_parent


def answer(request: bytes) -> bytes:
    """Run the request; the answer is what it leaves in `answer`."""
    names: dict[str, bytes] = {"answer": b""}
    exec(request.decode(), names)
    return names["answer"]


if __name__ == "__main__":
    serve_parent(answer)
