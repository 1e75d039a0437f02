//! Programs from Debian, unmodified, that run a real script in a guest: `faasnap exec` with the roots that `cargo xtask
//! test` builds.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn home() -> PathBuf {
    std::env::var_os("FAASNAP_TEST_HOME").expect("run `cargo xtask test`, which prepares the runtimes").into()
}

/// Runs a program in a guest whose root is that of a runtime; gives what it wrote to standard output.
#[track_caller]
fn guest(runtime: &str, program: &[&str], input: &str) -> String {
    let root = home().join("runtimes").join(runtime).join("root");
    let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
    command.args(["exec", "--memory", "512", "--root"]).arg(root).arg("--").args(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?} ended with {}: {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn sqlite_keeps_a_database_in_a_file() {
    let script = "create table numbers(value integer);\n\
                  with recursive count(n) as (select 1 union all select n + 1 from count limit 1000)\n\
                  insert into numbers select n from count;\n\
                  create index by_value on numbers(value);\n\
                  delete from numbers where value % 3 = 0;\n\
                  vacuum;\n\
                  select count(*), sum(value) from numbers;\n\
                  pragma integrity_check;\n";
    // 667 numbers up to 1000 are no multiples of three; the sum is 500500 less 3 * (1 + ... + 333).
    assert_eq!(guest("tools", &["/usr/bin/sqlite3", "/tmp/test.db"], script), "667|333667\nok\n");
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn lua_runs_closures_coroutines_and_patterns() {
    let script = r#"
        local function numbers(last) return coroutine.wrap(function() for n = 1, last do coroutine.yield(n) end end) end
        local sum, words = 0, {}
        for n in numbers(1000) do sum = sum + n end
        for word in ("one two three"):gmatch("%a+") do words[#words + 1] = word:upper() end
        table.sort(words)
        collectgarbage()
        print(sum, table.concat(words, ","), math.tointeger(2^53), pcall(error, "caught"))
    "#;
    let answer = guest("tools", &["/usr/bin/lua5.4", "-"], script);
    assert_eq!(answer, "500500\tONE,THREE,TWO\t9007199254740992\tfalse\tcaught\n");
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn bash_computes_without_a_second_process() {
    let script = "declare -A seen; for word in a b a c b a; do ((seen[$word] += 1)); done\n\
                  for word in a b c; do printf '%s=%d ' \"$word\" \"${seen[$word]}\"; done; echo \"${#seen[@]}\"\n";
    assert_eq!(guest("provided.al2023", &["/usr/bin/bash"], script), "a=3 b=2 c=1 3\n");
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn node_runs_timers_promises_files_and_cryptography() {
    let script = r#"
        const { createHash } = require('node:crypto');
        const fs = require('node:fs/promises');
        const zlib = require('node:zlib');
        const sleep = (time) => new Promise((done) => setTimeout(done, time));
        (async () => {
          await fs.writeFile('/tmp/file', 'abc');
          await Promise.all([sleep(5), sleep(1)]);
          const text = await fs.readFile('/tmp/file', 'utf8');
          const packed = zlib.deflateSync(Buffer.alloc(100000, 'x'));
          console.log(createHash('sha256').update(text).digest('hex').slice(0, 16), zlib.inflateSync(packed).length);
        })();
    "#;
    // SHA-256 of "abc" starts with these digits (FIPS 180-2).
    assert_eq!(guest("nodejs", &["/usr/bin/node", "-"], script), "ba7816bf8f01cfea 100000\n");
}

#[test]
#[ignore = "needs the runtimes that `cargo xtask test` builds"]
fn python_imports_its_own_library_and_checks_its_answers() {
    let script = "import asyncio, ctypes, decimal, json, sqlite3, ssl, threading, zlib\n\
                  async def answer():\n    await asyncio.sleep(0.001)\n    return 42\n\
                  found = []\n\
                  threads = [threading.Thread(target=found.append, args=(n,)) for n in range(8)]\n\
                  [t.start() for t in threads]; [t.join() for t in threads]\n\
                  assert zlib.decompress(zlib.compress(b'x' * 100000)) == b'x' * 100000\n\
                  assert json.loads(json.dumps({'a': [1, None, 2.5]})) == {'a': [1, None, 2.5]}\n\
                  print(asyncio.run(answer()), sorted(found), decimal.Decimal(1) / 7, len(ssl.RAND_bytes(8)))\n";
    let answer = guest("python3.11", &["/usr/bin/python3.11", "-"], script);
    assert_eq!(answer, "42 [0, 1, 2, 3, 4, 5, 6, 7] 0.1428571428571428571428571429 8\n");
}
