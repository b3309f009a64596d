"""What may not be in the files that users install: the registry's scan, imports, sizes, paths."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from repository import ROOT, parsed, repository_files, shipped_files

MODULES = [name for name in shipped_files() if name.endswith(".py")]
LARGEST = 17 * 2**20  # bytes; emo-tiny has 16 MiB, the next file a tenth of it

FORBIDDEN_MODULES = {
    "subprocess", "socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp",
    "ftplib", "smtplib", "telnetlib", "websocket", "websockets", "xmlrpc", "socketserver",
    "pip", "ensurepip", "venv", "setuptools", "pickle", "dill", "joblib", "shelve", "marshal",
    "ctypes", "runpy", "code", "codeop", "huggingface_hub", "gdown", "wget",
}  # fmt: skip
"""Network, processes, code from data. `pickle` names an exception in one file: see ALLOWED."""
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.putenv", "os.unsetenv",
    "os.execv", "os.spawnv", "os.startfile", "torch.hub", "torch.hub.load",
    "torch.hub.load_state_dict_from_url", "importlib.reload", "site.addsitedir", "np.load",
}  # fmt: skip
ALLOWED = {
    # For the name of the exception that torch raises when it refuses a pickle.
    ("emo_core/weight_files.py", "pickle"),
}
READS_PICKLES = {"emo_core/weight_files.py"}
"""Where torch.load may stand, as weights only."""

READERS = {"get", "items", "keys", "values", "copy", "index", "count"}
"""Methods of dicts and lists that change nothing."""

HOST = {
    "comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras",
    "folder_paths", "node_helpers", "latent_preview", "nodes", "server", "execution", "app",
}  # fmt: skip
HOST_IMPORTS: dict[str, set[str]] = {
    "nodes/backbone.py": {
        "comfy.latent_formats",
        "comfy.model_base",
        "comfy.patcher_extension",
        "comfy.supported_models_base",
    },
    "nodes/clip_sampler.py": {"comfy.sample", "comfy.samplers", "comfy.utils", "latent_preview"},
    "nodes/compat.py": {"comfy_api.v0_0_2"},
    "nodes/encoders.py": {"comfy.audio_encoders.wav2vec2"},
    "nodes/existing.py": {"comfy.utils"},
    "nodes/face_embedding.py": {"folder_paths"},
    "nodes/faces.py": {"comfy.model_management", "comfy.model_patcher", "folder_paths"},
    "nodes/fingerprint.py": {"comfy.samplers"},
    "nodes/guide.py": {"comfy.samplers"},
    "nodes/hearing.py": {
        "comfy.model_management",
        "comfy.model_patcher",
        "comfy.utils",
        "folder_paths",
    },
    "nodes/host.py": {
        "comfy.ldm.modules.attention",
        "comfy.model_management",
        "comfy.model_patcher",
        "comfy.ops",
        "comfy_execution.utils",
    },
    "nodes/keeping.py": {"comfy.ldm.modules.attention", "comfy.samplers", "folder_paths"},
    "nodes/load.py": {
        "comfy.latent_formats",
        "comfy.model_patcher",
        "comfy.patcher_extension",
        "folder_paths",
    },
    "nodes/lora_names.py": {"comfy.model_patcher", "comfy.utils"},
    "nodes/output.py": {"comfy.utils", "folder_paths"},
    "nodes/paste_back.py": {"comfy.utils", "comfy_execution.graph_utils", "folder_paths"},
    "nodes/region.py": {"comfy.model_management"},
    "nodes/sample.py": {"comfy.samplers"},
    "nodes/vae.py": {"comfy.latent_formats", "comfy.sd"},
}
"""What each file of `nodes` takes from ComfyUI: nodes/host.py is the bridge, and others name here
what they cannot get there."""

HEAVY = {
    "transformers", "diffusers", "librosa", "facexlib", "accelerate", "av", "PIL", "cv2", "scipy",
    "matplotlib", "numba", "soundfile", "torchaudio", "torchvision",
}  # fmt: skip

ILLEGAL_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]|[. ](/|$)')
DEVICE_NAMES = re.compile(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)", re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?<![\w.~$*>-])(/(?:root|home|Users|work|mnt|srv)/\w|[A-Z]:\\Users)")


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every absolute import under a part of a file, and what it names."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            yield from ((part, alias.name) for alias in part.names)
        elif isinstance(part, ast.ImportFrom) and part.level == 0:
            yield part, str(part.module)


def at_top_level(tree: ast.Module) -> Iterator[str]:
    """What is imported with the file: not inside functions, nor for the type checker only."""
    parts: list[ast.AST] = list(tree.body)
    while parts:
        part = parts.pop()
        if isinstance(part, ast.If) and "TYPE_CHECKING" in ast.unparse(part.test):
            continue
        if isinstance(part, (ast.Import, ast.ImportFrom)):
            yield from (name for _, name in imports(part))
        elif not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            parts.extend(ast.iter_child_nodes(part))


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for part in ast.walk(tree):
        if isinstance(part, ast.Call):
            yield part, ast.unparse(part.func)


def changed(tree: ast.Module) -> Iterator[str]:
    """What assignments, deletions and method calls change, as written: `os.environ['A']`."""
    for part in ast.walk(tree):
        if isinstance(part, (ast.Assign, ast.Delete)):
            yield from (ast.unparse(target) for target in part.targets)
        elif isinstance(part, (ast.AugAssign, ast.AnnAssign)):
            yield ast.unparse(part.target)
        elif (
            isinstance(part, ast.Call)
            and isinstance(part.func, ast.Attribute)
            and part.func.attr not in READERS
        ):
            yield ast.unparse(part.func.value)


@pytest.mark.parametrize("name", MODULES)
def test_nothing_that_the_registrys_scan_refuses(name: str) -> None:
    tree = parsed(name)
    for _, module in imports(tree):
        root = module.split(".")[0]
        assert root not in FORBIDDEN_MODULES or (name, root) in ALLOWED, f"imports {module}"
    for call, function in calls(tree):
        assert function not in FORBIDDEN_CALLS, f"line {call.lineno} calls {function}"
        if function.split(".")[-1] == "import_module":
            literal = isinstance(call.args[0], ast.Constant)
            assert literal, f"line {call.lineno} imports a module whose name is not written there"
    for target in changed(tree):
        assert not target.startswith(("os.environ", "sys.path", "sys.modules")), f"changes {target}"


@pytest.mark.parametrize("name", MODULES)
def test_pickles_are_read_as_weights_only_and_in_their_place(name: str) -> None:
    for call, function in calls(parsed(name)):
        if function == "torch.load":
            assert name in READS_PICKLES, f"line {call.lineno}"
            given = {word.arg: word.value for word in call.keywords}
            assert ast.unparse(given["weights_only"]) == "True", f"line {call.lineno}"
            assert "pickle_module" not in given


@pytest.mark.parametrize("name", MODULES)
def test_our_own_packages_are_imported_relatively(name: str) -> None:
    """ComfyUI imports the pack under its folder's path, whatever it is."""
    for _, module in imports(parsed(name)):
        root = module.split(".")[0]
        assert root != "emo_core", f"imports {module}; write it with dots"
        if name.startswith("nodes/"):
            allowed = HOST_IMPORTS.get(name, set())
            assert root not in HOST or module in allowed, f"imports {module} of ComfyUI"
        else:
            assert root not in HOST, f"imports {module} of ComfyUI"


def test_the_list_of_host_imports_names_nothing_that_is_gone() -> None:
    for name, modules in HOST_IMPORTS.items():
        found = {module for _, module in imports(parsed(name))}
        assert modules <= found, f"{name} no longer imports {sorted(modules - found)}"


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_where_they_are_needed(name: str) -> None:
    for module in at_top_level(parsed(name)):
        assert module.split(".")[0] not in HEAVY, f"imports {module} at the top"


@pytest.mark.parametrize("name", MODULES)
def test_sources_are_ascii(name: str) -> None:
    """Old consoles cannot show anything else."""
    assert (ROOT / name).read_bytes().isascii()


def test_paths_are_legal_on_windows() -> None:
    for name in repository_files():
        assert not ILLEGAL_ON_WINDOWS.search(name), name
        assert not DEVICE_NAMES.search(name), name
    lower = [name.lower() for name in repository_files()]
    assert len(set(lower)) == len(lower), "two paths differ in capitals only"


def test_no_file_is_larger_than_the_model() -> None:
    for name in repository_files():
        size = (ROOT / name).stat().st_size
        assert size <= LARGEST, f"{name} has {size / 2**20:.1f} MiB"


def test_no_path_of_a_machine() -> None:
    for name in repository_files():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content[:1024]:
            found = MACHINE_PATH.search(content.decode("utf-8", "replace"))
            assert found is None, f"{name} names {found}"


@pytest.mark.parametrize("package", ["emo_core", "nodes"])
def test_a_module_imports_only_from_those_above_it_in_the_readme(package: str) -> None:
    """Those of one line may import each other."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.split("`emo_core` never imports ComfyUI", 1)[1].split("```")[1]
    lines = re.search(rf"^{package}/\n((?:    .*\n)+)", tree, re.MULTILINE)[1].splitlines()  # type: ignore[index]
    place = {name: at for at, line in enumerate(lines) for name in re.findall(r"(\w+)\.py", line)}
    modules = {name.removesuffix(".py") for name in MODULES if name.count("/") == 1}
    here = {path.split("/")[1] for path in modules if path.startswith(f"{package}/")}
    assert place.keys() == here - {"__init__"}
    for name, at in place.items():
        for node in parsed(f"{package}/{name}.py").body:
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert place.get(str(node.module), -1) <= at, f"{name} imports {node.module}"
