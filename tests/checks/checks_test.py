# SPDX-License-Identifier: MIT
"""Every check catches a bad sample, and is silent about a good one."""

import pathlib
import shutil
import sys

import format as format_check
import headers
import layers
import scripts
import source
import testing
import tidy

COMPILER = sys.argv.pop() if len(sys.argv) > 1 and "/" in sys.argv[-1] else "g++"
LICENCE = "// SPDX-License-Identifier: MIT\n"


class Checks(testing.Case):
    def write(self, name, text):
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def found(self, findings, expected):
        """There is exactly one finding, and it holds this text; None: there is no finding."""
        told = "\n".join(map(str, findings))
        if expected is None:
            self.assertEqual(told, "")
        else:
            self.assertEqual(len(findings), 1, told)
            self.assertIn(expected, told)


class Layers(Checks):
    def includes(self, name, line):
        for header in ("base/a.h", "rt/a.h", "block/a.h", "stack/a.h", "store/file/a.h", "store/nbd/a.h",
                       "target/thin/a.h", "format/qcow2/a.h", "wire/nbd/a.h"):
            self.write(f"src/{header}", "")
        self.write(f"src/{name}", f"// text\n#include {line}\n")
        return layers.check(self.dir)

    def test_allowed_includes(self):
        for name, line in (("rt/b.cc", '"base/a.h"'), ("store/nbd/b.cc", '"wire/nbd/a.h"'),
                           ("store/nbd/b.h", '"store/nbd/a.h"'), ("app/b.cc", '"store/file/a.h"'),
                           ("base/b.cc", "<fmt/core.h>"), ("base/b.cc", "<vector>"),
                           ("base/b_test.cc", '"store/file/a.h"')):
            with self.subTest(name=name, line=line):
                self.found(self.includes(name, line), None)

    def test_forbidden_includes(self):
        for name, line, expected in (
                ("base/b.h", '"rt/a.h"', "src/base/b.h:2: includes \"rt/a.h\": base must not use rt"),
                ("store/nbd/b.cc", '"stack/a.h"', "store must not use stack"),
                ("store/nbd/b.cc", '"store/file/a.h"', "neighbour store/file"),
                ("target/raid/b.cc", '"target/thin/a.h"', "neighbour target/thin"),
                ("format/lvm2/b.cc", '"block/a.h"', "format must not use block"),
                ("wire/b.cc", "<liburing.h>", "liburing is for rt only"),
                ("base/b.h", "<fmt/core.h>", "not to be included by headers"),
                ("export/b.cc", "<nlohmann/json.hpp>", "nlohmann/ is for "),
                ("base/b.cc", '"a.h"', "no file src/a.h"),
                ("gadgets/b.cc", '"base/a.h"', "src/gadgets is no layer")):
            with self.subTest(name=name, line=line):
                self.found(self.includes(name, line), expected)
                (self.dir / "src" / name).unlink()

    def links(self, folder, text):
        self.write("src/base/CMakeLists.txt", "lbd_library(lbd_base SOURCES a.cc)\n")
        self.write("src/rt/CMakeLists.txt", "lbd_library(lbd_rt SOURCES a.cc DEPS lbd_base PkgConfig::URING)\n")
        self.write("src/store/file/CMakeLists.txt", "lbd_library(lbd_store_file SOURCES a.cc DEPS lbd_rt)\n")
        self.write(f"src/{folder}/CMakeLists.txt", text)
        return layers.check(self.dir)

    def test_links(self):
        for folder, text, expected in (
                ("store/nbd", "lbd_library(lbd_x\n  SOURCES b.cc\n  DEPS lbd_rt lbd_base)\n", None),
                ("store/nbd", "lbd_library(lbd_x SOURCES b.cc DEPS lbd_store_file)\n", "neighbour store/file"),
                ("format/x", "# text\nlbd_library(lbd_x SOURCES b.cc DEPS lbd_rt)\n",
                 "src/format/x/CMakeLists.txt:2: lbd_x links lbd_rt: format must not use rt"),
                ("wire/x", "lbd_library(lbd_x SOURCES b.cc)\ntarget_link_libraries(lbd_x PRIVATE lbd_rt)\n",
                 "wire must not use rt"),
                ("wire/x", "lbd_library(lbd_x SOURCES b.cc DEPS PkgConfig::URING)\n", "liburing is for rt only"),
                ("wire/x", "lbd_library(lbd_x SOURCES b.cc DEPS boost)\n", "does not know"),
                ("wire/x", "lbd_library(lbd_x SOURCES b.cc DEPS lbd_nothing)\n", "no folder makes it")):
            with self.subTest(text=text):
                self.found(self.links(folder, text), expected)
                (self.dir / "src" / folder / "CMakeLists.txt").unlink()


class Tidy(Checks):
    def tidy(self, name, text, allowed=""):
        self.write(name, text)
        exceptions = pathlib.Path(self.path("allowed.txt"))
        exceptions.write_text(allowed, encoding="utf-8")
        findings = tidy.check(self.dir, exceptions)
        (self.dir / name).unlink()
        return findings

    def cpp(self, body, name="src/block/a.cc"):
        return self.tidy(name, LICENCE + body)

    def test_good_samples(self):
        self.found(self.cpp("int add(int a, int b) { return a + b; }\n"), None)
        self.found(self.cpp("#pragma once\nnamespace x {\nstruct y { int z = 0; };\n}\n", "src/block/a.h"), None)
        self.found(self.cpp("// time(0), TIDY, \"std::mutex\"\nconst char* t = \"getenv(\";\n"), None)
        self.found(self.tidy("tools/x", "#!/bin/bash\n# SPDX-License-Identifier: MIT\n"), None)
        self.found(self.tidy("README.md", "any text\n"), None)

    def test_sizes(self):
        body = "  ++i;\n"
        self.found(self.cpp("void f(int i) {\n" + body * 58 + "}\n"), None)
        self.found(self.cpp("void f(int i) {\n" + body * 59 + "}\n"), "a.cc:2: a function of 61 lines")
        nested = "namespace a {\nclass b {\n public:\n  b() : c_{1} {}\n  void f(int i) {\n    if (i) {\n" \
                 + body * 58 + "    }\n  }\n  int c_;\n};\n}\n"
        self.found(self.cpp(nested), "a.cc:6: a function of 62 lines")
        self.found(self.cpp("namespace a {\n" + "int b;\n" * 100 + "}\n"), None)
        self.found(self.cpp("int a;\n" * 799), None)
        self.found(self.cpp("int a;\n" * 800), "801 lines")
        self.found(self.cpp("// " + "x" * 97 + "\n"), None)
        self.found(self.cpp("// " + "x" * 98 + "\n"), "a.cc:2: 101 columns")
        self.found(self.cpp("int a; \n"), "blanks at the end")
        self.found(self.cpp("int a;"), "no newline")

    def test_licence(self):
        self.found(self.tidy("src/base/a.cc", "int a;\n"), "SPDX")
        self.found(self.tidy("tools/x", "#!/bin/bash\necho\n"), "SPDX")
        self.found(self.tidy("x/CMakeLists.txt", "project(x)\n"), "SPDX")

    def test_words(self):
        for word in ("TODO: later", "FIXME", "a stub", "not implemented"):
            with self.subTest(word=word):
                self.found(self.cpp(f"// {word}\n"), "unfinished")
        for word in ("/wo" "rk/main", "../sha" "red/x", "see issue 12", "issue #3", "written by an LLM",
                     "/ro" "ot/.cache", "deb.deb" "ian.org"):
            with self.subTest(word=word):
                self.found(self.tidy("docs/x.md", word + "\n"), "speaks only of itself")
        for word in ("LLVM", "a network/work queue", "the issue is", "hackney", "stubborn"):
            with self.subTest(word=word):
                self.found(self.tidy("docs/x.md", word + "\n"), None)

    def test_runtime(self):
        for body, expected in (("long f() { return time(nullptr); }\n", "time belong to src/rt: time()"),
                               ("auto f() { return std::chrono::steady_clock::now(); }\n", "steady_clock::now"),
                               ("std::mutex m;\n", "threads belong to src/rt: std::mutex"),
                               ("#include <thread>\n", "<thread>"),
                               ("int f() { return ::rand(); }\n", "randomness"),
                               ("auto f() { return std::getenv(\"X\"); }\n", "environment"),
                               ("int f() { return ::open(\"x\", 0); }\n", "files belong to src/rt: open()"),
                               ("#include <fstream>\n", "<fstream>"),
                               ("thread_local int x;\n", "thread_local")):
            with self.subTest(body=body):
                self.found(self.cpp(body), expected)
                self.found(self.cpp(body, "src/rt/a.cc"), None)
                self.found(self.cpp(body, "src/block/a_test.cc"), None)
        self.found(self.cpp("int f(x& t) { return t.time() + t.read(1) + read(2); }\n"), None)
        self.found(self.cpp("uint64_t time(int);\n"), None)

    def test_exceptions(self):
        body = LICENCE + "#include <unistd.h>\nlong f() { return time(nullptr); }\n"
        self.assertEqual(len(self.tidy("src/base/a.cc", body)), 2)
        self.found(self.tidy("src/base/a.cc", body, "src/base/a.cc time,<unistd.h> because\n"), None)
        self.assertEqual(len(self.tidy("src/base/a.cc", body, "src/base/b.cc time because\n")), 2)
        with self.assertRaises(ValueError):
            self.tidy("src/base/a.cc", body, "src/base/a.cc time\n")

    def test_headers(self):
        self.found(self.cpp("int a;\n", "src/base/a.h"), "#pragma once")
        self.found(self.cpp("#pragma once\nusing namespace std;\n", "src/base/a.h"), "using namespace")

    def test_coroutines(self):
        for body, expected in (
                ("task<int> f() { auto x = a ? co_await b() : 1; co_return x; }\n", "operand of ?:"),
                ("task<int> f() { co_await (a ? co_await b() : c()); }\n", "operand of ?:"),
                ("task<void> f() { if (!co_await b()) co_return; }\n", "co_await in a condition"),
                ("task<void> f() { for (;;) switch (co_await b(1)) { case 1: g(); } }\n", "in a condition"),
                ("task<void> f() { do { g(); } while (co_await b()); }\n", "in a condition"),
                ("task<void> f() { for (; co_await b();) g(); }\n", "in a condition"),
                ("auto f(int x) { return [x]() -> rt::task<int> { co_return x; }; }\n", "captures"),
                ("task<void> f(int x) { co_await run([&x] { ++x; }); }\n", "capturing lambda inside"),
                ("task<void> f() { co_await g({.a = 1, .b = h()}); }\n", "braced aggregate"),
                ("task<void> f() { co_await g(options{.a = 1}); }\n", "braced aggregate")):
            with self.subTest(body=body):
                self.found(self.cpp(body), expected)
        for body in ("task<int> f() { auto x = co_await b(); co_return a ? x : 1; }\n",
                     "task<void> f(int a) { co_await g(a > 0 ? a : 1); }\n",
                     "task<void> f() { if (const auto x = co_await b(); !x) co_return; }\n",
                     "task<void> f() { while (auto* x = co_await b()) g(x); }\n",
                     "task<void> f() { for (int i = 0; i < co_await b(); ++i) if (i > 0) co_await c(); }\n",
                     "auto f() { return [](int x) -> rt::task<int> { co_return x; }; }\n",
                     "task<void> f(int x) { auto h = [&x] { ++x; }; co_await run(h); }\n",
                     "task<int> f() { auto x = v[1]; co_return co_await g(v[x]); }\n"):
            with self.subTest(body=body):
                self.found(self.cpp(body), None)


class Others(Checks):
    def test_headers_compile_alone(self):
        self.write("src/base/good.h", "#pragma once\n#include <string>\ninline std::string f() { return {}; }\n")
        self.found(headers.check(self.dir, COMPILER), None)
        self.write("src/base/bad.h", "#pragma once\ninline std::string g() { return {}; }\n")
        self.found(headers.check(self.dir, COMPILER), "src/base/bad.h:0: does not compile by itself")
        self.write("src/base/bad.cc", "#include <string>\n#include \"base/bad.h\"\n")
        self.found(headers.check(self.dir, COMPILER), "src/base/bad.h:0: does not compile by itself")
        self.write("src/base/bad.cc", "#include \"base/bad.h\"\n")
        self.found(headers.check(self.dir, COMPILER), None)

    def test_shell_scripts(self):
        testing.require("shellcheck")
        self.write("tools/good", "#!/bin/bash\necho \"$1\"\n")
        self.write("tools/no-shell", "echo $1\n")
        self.found(scripts.check(self.dir), None)
        self.write("tools/bad", "#!/bin/bash\n\necho $1\n")
        self.found(scripts.check(self.dir), "tools/bad:3:")

    def test_python_files(self):
        testing.require("shellcheck")
        self.write("tests/good.py", "x = 1\n")
        self.found(scripts.check(self.dir), None)
        self.write("tests/bad.py", "\nx = = 1\n")
        self.found(scripts.check(self.dir), "tests/bad.py:2: Python")

    def test_format(self):
        testing.require(format_check.PROGRAM)
        shutil.copy(testing.SOURCE_DIR / ".clang-format", self.dir)
        self.write("src/good.cc", "int f(int a) { return a; }\n")
        self.found(format_check.check(self.dir), None)
        self.write("src/bad.cc", "int g;\nint f (int a) {return a;}\n")
        self.found(format_check.check(self.dir), "src/bad.cc:2:")

    def test_files_without_git(self):
        self.write("a/b.cc", "")
        self.write("build/c.cc", "")
        self.write("build-asan/c.cc", "")
        self.assertEqual(source.project_files(self.dir), ["a/b.cc"])


if __name__ == "__main__":
    testing.main()
