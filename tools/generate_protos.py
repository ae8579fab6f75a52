"""Generates the Python code of the `millstream` package from protos/**.proto, or checks that it is fresh.

`python tools/generate_protos.py` writes it; with `--check` it generates into a temporary folder and compares byte for byte.
Everything in a folder `millstream/<domain>/v1/` is generated, so a file there without a proto is removed.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import google.rpc
from grpc_tools import protoc

HOUSE = Path(__file__).resolve().parents[1]
PROTOS = HOUSE / "protos"
PACKAGE = "millstream"
MARKER = '"""Generated from protos/{folder} by `make protos`."""\n'


def proto_files() -> list[Path]:
    """Every file of the protos, sorted."""
    return sorted((PROTOS / PACKAGE).rglob("*.proto"))


def generate(into: Path) -> None:
    """Write messages, gRPC stubs and their types below `into`, with an __init__.py in every folder of them."""
    sources = proto_files()
    includes = [PROTOS, Path(str(files("grpc_tools") / "_proto")), Path(google.rpc.__path__[0]).parent.parent]
    arguments = ["protoc", *(f"--proto_path={folder}" for folder in includes)]
    arguments += [f"--{kind}_out={into}" for kind in ("python", "grpc_python")]
    arguments += [f"--{kind}_out=quiet:{into}" for kind in ("mypy", "mypy_grpc")]
    # The plugins are in the interpreter's folder, which need not be on PATH.
    beside = Path(sys.executable).parent
    arguments += [f"--plugin=protoc-gen-{name}={beside / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    if protoc.main([*arguments, *map(str, sources)]) != 0:
        raise SystemExit("protoc failed: see its message above.")
    remove_empty_services(into)
    for version in {source.parent.relative_to(PROTOS) for source in sources}:
        for folder in (version, *(above for above in version.parents if len(above.parts) > 1)):
            (into / folder / "__init__.py").write_text(MARKER.format(folder=folder.as_posix()))


def remove_empty_services(into: Path) -> None:
    """Delete the gRPC modules of protos without a service, which protoc writes too, and which are empty."""
    for source in proto_files():
        if not any(line.startswith("service ") for line in source.read_text().splitlines()):
            stem = into / source.relative_to(PROTOS).with_suffix("")
            for suffix in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                stem.with_name(stem.name + suffix).unlink(missing_ok=True)


def generated(house: Path) -> Iterator[Path]:
    """Every generated file of `house`, relative to it."""
    for domain in {source.parent.parent.relative_to(PROTOS) for source in proto_files()}:
        for file in (house / domain).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(house)


def differences(fresh: Path, house: Path) -> list[str]:
    """One line for each file that is missing, stale or without a proto."""
    wanted, present = set(generated(fresh)), set(generated(house))
    found = [f"{file} is missing" for file in wanted - present]
    found += [f"{file} belongs to no proto" for file in present - wanted]
    both = wanted & present
    found += [f"{file} is stale" for file in both if (fresh / file).read_bytes() != (house / file).read_bytes()]
    return sorted(found)


def main() -> int:
    """Write or check; exit code 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the generated code is not fresh")
    check = parser.parse_args().check
    if not proto_files():
        raise SystemExit(f"There is no .proto file below protos/{PACKAGE}.")
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        found = differences(fresh, HOUSE)
        if check and found:
            print("The generated code does not match protos/: run `make protos` and commit it.", file=sys.stderr)
            print("\n".join(f"  {line}" for line in found), file=sys.stderr)
            return 1
        if not check:
            write(fresh)
    return 0


def write(fresh: Path) -> None:
    """Replace the generated code of the repository by the fresh one; only files that differ are written."""
    for file in set(generated(HOUSE)) - set(generated(fresh)):
        (HOUSE / file).unlink()
    for file in generated(fresh):
        target = HOUSE / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (fresh / file).read_bytes():
            target.write_bytes((fresh / file).read_bytes())


if __name__ == "__main__":
    sys.exit(main())
