"""The one DAG: the project's dvc.yaml as DVC resolves it (matrix, foreach, vars), plain."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pistole.errors import UserError
from pistole.lineage.paths import overlapping

if TYPE_CHECKING:
    from dvc.dependency import ParamsDependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


_ABSENT = object()


class Out(TypedDict):
    """One output of a stage; ``path`` is relative to the project's folder."""

    path: str
    dir: bool
    cache: bool
    persist: bool
    metric: bool
    plot: bool


class Stage(TypedDict):
    """One stage, JSON-able; paths are relative to the project's folder."""

    name: str
    cmd: list[str]
    wdir: str
    deps: list[str]
    params: dict[str, dict[str, Any]]
    outs: list[Out]
    frozen: bool
    always: bool
    meta: dict[str, Any]
    desc: str | None


def load(root: str | Path = ".") -> list[Stage]:
    """Read every stage of the project.

    Args:
        root: the project's folder.

    Returns:
        The stages by name; ``.dvc`` files are no stages, only inputs of some.

    Raises:
        UserError: the folder is no DVC project, or its dvc.yaml is not valid.
    """
    with open_repo(root) as repo:
        return stages_of(repo)


def stages_of(repo: "Repo") -> list[Stage]:
    """Read every stage of an open project.

    Args:
        repo: the project.

    Returns:
        The stages by name, as :func:`load` has them.

    Raises:
        UserError: a dependency is not a local path.
    """
    from dvc.stage import PipelineStage

    stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]
    files: dict[str, dict[str, Any]] = {}
    return sorted((_plain(stage, files) for stage in stages), key=lambda stage: stage["name"])


def producers(stages: list[Stage]) -> dict[str, set[str]]:
    """Tell for each stage which others it reads from.

    Args:
        stages: all stages of a project.

    Returns:
        Name -> names of the stages that write one of its dependencies, part of one, or the folder
        around one.
    """
    owner = {out["path"]: stage["name"] for stage in stages for out in stage["outs"]}
    return {
        stage["name"]: {owner[path] for dep in stage["deps"] for path in overlapping(dep, owner)}
        for stage in stages
    }


def load_stage(root: str | Path, name: str) -> Stage:
    """Read one stage, without the cost of building the project's graph.

    Args:
        root: the project's folder.
        name: DVC's name of it, such as ``merge@pistole``.

    Returns:
        The stage.

    Raises:
        UserError: the folder is no DVC project, its dvc.yaml is not valid, or has no such stage.
    """
    with open_repo(root) as repo:
        return _plain(repo.stage.load_one(os.fspath(Path(repo.root_dir) / "dvc.yaml"), name), {})


def load_under(dvc_yaml: str | Path, params: str | Path) -> list[Stage]:
    """Read the stages as they would be under other parameters; the project is left alone.

    Args:
        dvc_yaml: the DAG.
        params: the file to take as its params.yaml.

    Returns:
        The stages by name.

    Raises:
        UserError: there is no such dvc.yaml, or it is not valid with these parameters.
    """
    if not Path(dvc_yaml).is_file():
        raise UserError(f"{dvc_yaml} does not exist: run this in the project's folder")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(dvc_yaml, Path(folder) / "dvc.yaml")
        shutil.copy(params, Path(folder) / "params.yaml")
        config = Path(folder) / ".dvc" / "config"
        config.parent.mkdir()
        config.write_text("[core]\n    no_scm = true\n    analytics = false\n", encoding="utf-8")
        return load(folder)


@contextlib.contextmanager
def open_repo(root: str | Path) -> Iterator["Repo"]:
    """Open a DVC project; what DVC refuses in it is one line.

    Args:
        root: the project's folder.

    Yields:
        The project.

    Raises:
        UserError: the folder is no DVC project, or its dvc.yaml is not valid.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(os.fspath(root)) as repo:
            yield repo
    except DvcException as error:
        text = "; ".join(" ".join(str(part).split()) for part in (error, error.__cause__) if part)
        raise UserError(f"dvc cannot read the project ({text}): try `dvc status`") from error


def _plain(stage: "PipelineStage", files: dict[str, dict[str, Any]]) -> Stage:
    from dvc.dependency import ParamsDependency

    deps, params = [], {}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            params[_path(dep)] = _parameters(dep, files)
        elif dep.protocol == "local":
            deps.append(_path(dep))
        else:
            raise UserError(f"{stage.name}: {dep} is not a local path: fetch it first")
    return Stage(
        name=stage.name,
        cmd=stage.cmd if isinstance(stage.cmd, list) else [stage.cmd],
        wdir=os.path.relpath(stage.wdir, stage.repo.root_dir),
        deps=sorted(deps),
        params=params,
        outs=[_out(out) for out in stage.outs],
        frozen=stage.frozen,
        always=stage.always_changed,
        meta=stage.meta or {},
        desc=stage.desc,
    )


def _parameters(
    dep: "ParamsDependency", files: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What ``dep.read_params()`` gives, which parses the whole file anew for each stage."""
    from dvc.dependency import ParamsDependency

    if dep.fs_path not in files:
        files[dep.fs_path] = ParamsDependency(dep.stage, dep.fs_path, repo=dep.repo).read_params()
    whole, found = files[dep.fs_path], {}
    for name in dep.params or whole:
        value: Any = whole
        for key in name.split("."):
            value = value.get(key, _ABSENT) if isinstance(value, dict) else _ABSENT
        if value is not _ABSENT:
            found[name] = value
    return found


def _out(out: "Output") -> Out:
    known = bool(out.hash_info and out.hash_info.isdir)
    return Out(
        path=_path(out),
        dir=known or out.annot.type == "dir" or out.def_path.endswith("/"),
        cache=out.use_cache,
        persist=out.persist,
        metric=bool(out.metric),
        plot=bool(out.plot),
    )


def _path(out: "Output") -> str:
    """Return the path as dvc.lock has it: relative to the project, unless written absolute."""
    if Path(out.def_path).is_absolute():
        return out.def_path.rstrip("/")
    return os.path.relpath(out.fs_path, out.repo.root_dir)
