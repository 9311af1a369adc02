#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Who may use whom in src/: looks at every #include and at every library that CMake links.

usage: layers.py ROOT
"""

import pathlib
import re
import sys

import source

# A layer is a folder of src/. It may use itself and the layers named here, and nothing else.
LAYERS = {
    "base": [],
    "rt": ["base"],
    "block": ["base", "rt"],
    "crypto": ["base"],
    "format": ["base"],
    "wire": ["base"],
    "pdata": ["base", "rt", "block", "format"],
    "target": ["base", "rt", "block", "crypto", "format", "pdata"],
    "store": ["base", "rt", "block", "format", "wire"],
    "stack": ["base", "rt", "block"],
    "export": ["base", "rt", "block", "wire"],
    "volume": ["base", "format", "block", "stack"],
    "ctl": ["base", "rt", "block", "wire", "stack", "volume", "export"],
    "sim": ["base", "rt", "block", "format", "wire", "pdata", "target", "store", "stack"],
    "app": ["base", "rt", "block", "crypto", "format", "wire", "pdata", "target", "store", "stack",
            "export", "volume", "ctl"],
}

# In these layers every folder is on its own: none uses its neighbour.
SEPARATE = ("target", "store", "export")

# Headers of other libraries, and the only places that may include them; the compile time of the heavy
# ones must not spread, so they are for .cc files alone.
FOREIGN = {
    "liburing": ["rt"],
    "fmt/": ["*"],
    "nlohmann/json_fwd.hpp": ["wire", "ctl", "app"],  # declarations only: fit for headers
    "nlohmann/": ["wire", "ctl", "app"],
    "CLI/": ["app"],
    "gcrypt.h": ["crypto"],
    "zlib.h": ["format", "crypto"],
    "zstd.h": ["format"],
    "openssl/": ["crypto"],
}
CC_ONLY = ("fmt/", "nlohmann/", "CLI/", "openssl/")

# The same libraries by the names that CMake knows them by.
FOREIGN_TARGETS = {
    "PkgConfig::URING": "liburing",
    "fmt::fmt": "fmt/",
    "fmt::fmt-header-only": "fmt/",
    "nlohmann_json::nlohmann_json": "nlohmann/",
    "CLI11::CLI11": "CLI/",
    "PkgConfig::GCRYPT": "gcrypt.h",
    "ZLIB::ZLIB": "zlib.h",
    "PkgConfig::ZSTD": "zstd.h",
    "OpenSSL::Crypto": "openssl/",
    "Threads::Threads": None,
    "lbd_flags": None,
}

# Files that may use more than their layer, with the layers and the reason.
EXCEPTIONS = {
    # Makes the stores and targets that a command line names; nothing else of ctl knows them.
    "src/ctl/stack_builder.h": ["store", "target"],
    "src/ctl/stack_builder.cc": ["store", "target"],
    "src/ctl/CMakeLists.txt": ["store", "target"],
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^">]+)[">]', re.MULTILINE)
LIBRARY = re.compile(r"\b(?:lbd_library|add_library|add_executable)\s*\(\s*([\w.${}-]+)([^)]*)\)")
LINK = re.compile(r"\btarget_link_libraries\s*\(\s*([\w.${}-]+)([^)]*)\)")


def parts_of(path):
    """The layer and the folder in it of a path below src/, such as ("store", "file")."""
    parts = pathlib.PurePosixPath(path).parts
    return parts[0], parts[1] if len(parts) > 2 else ""


def verdict(name, user, used):
    """Why the file `name` in the folder `user` may not use something in `used`; None when it may."""
    (layer, part), (other, other_part) = user, used
    if layer not in LAYERS:
        return f"src/{layer} is no layer of the design"
    if layer == other:
        if layer in SEPARATE and part != other_part:
            return f"{layer}/{part} must not use its neighbour {other}/{other_part}"
        return None
    if other not in LAYERS[layer] + EXCEPTIONS.get(name, []):
        return f"{layer} must not use {other}"
    return None


def foreign_verdict(layer, library, name):
    allowed = FOREIGN[library]
    if "*" not in allowed and layer not in allowed:
        return f"{library} is for {', '.join(allowed)} only"
    if library in CC_ONLY and name.endswith(".h"):
        return f"{library} is not to be included by headers"
    return None


def check_includes(root):
    findings = []
    for name in source.cpp_files(root):
        if not name.startswith("src/"):
            continue
        text = source.read_text(root, name)
        user = parts_of(name.removeprefix("src/"))
        for match in INCLUDE.finditer(text):
            quote, path = match.groups()
            reason = None
            library = next((prefix for prefix in FOREIGN if path.startswith(prefix)), None)
            if library and not source.is_test(name):
                reason = foreign_verdict(user[0], library, name)
            elif quote == '"' and not (pathlib.Path(root) / "src" / path).exists():
                reason = f"no file src/{path}: paths start at src/"
            elif quote == '"' and not source.is_test(name):
                reason = verdict(name, user, parts_of(path))
            if reason:
                findings.append(source.Finding(
                    name, source.line_of(text, match.start()), f'includes "{path}": {reason}'))
    return findings


def read_links(root):
    """For each CMakeLists.txt of src/ the libraries made there, and what each of them links to."""
    made, links = {}, []
    for name in source.project_files(root):
        if not (name.startswith("src/") and name.endswith("CMakeLists.txt")):
            continue
        text = re.sub(r"#[^\n]*", "", source.read_text(root, name))
        folder = name.removeprefix("src/").removesuffix("CMakeLists.txt") + "x"
        local = set()
        for match in LIBRARY.finditer(text):
            local.add(match.group(1))
            made[match.group(1)] = parts_of(folder)
            words = match.group(2).split()
            needs = words[words.index("DEPS") + 1:] if "DEPS" in words else []
            links.append((name, source.line_of(text, match.start()), match.group(1), needs))
        for match in LINK.finditer(text):
            if match.group(1) in local:
                needs = [word for word in match.group(2).split()
                         if word not in ("PUBLIC", "PRIVATE", "INTERFACE")]
                links.append((name, source.line_of(text, match.start()), match.group(1), needs))
    return made, links


def check_links(root):
    made, links = read_links(root)
    findings = []
    for name, line, target, needs in links:
        for need in needs:
            reason = None
            if need in made:
                reason = verdict(name, made[target], made[need])
            elif need in FOREIGN_TARGETS:
                library = FOREIGN_TARGETS[need]
                reason = library and foreign_verdict(made[target][0], library, ".cc")
            elif need.startswith("lbd_"):
                reason = "no folder makes it"
            else:
                reason = "a library that tests/checks/layers.py does not know"
            if reason:
                findings.append(source.Finding(name, line, f"{target} links {need}: {reason}"))
    return findings


def check(root):
    return check_includes(root) + check_links(root)


if __name__ == "__main__":
    source.report(check(sys.argv[1]))
