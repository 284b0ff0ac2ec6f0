# SPDX-License-Identifier: Apache-2.0
"""The examples of python/README.md, as they stand there."""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

README = pathlib.Path(__file__).parent.parent / "README.md"


class ReadmeTest(unittest.TestCase):
    def test_examples(self):
        examples = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
        self.assertTrue(examples)
        for example in examples:
            self.assertLess(example.count("\n"), 30)
            with tempfile.TemporaryDirectory() as folder:
                script = pathlib.Path(folder) / "train.py"
                script.write_text(example)
                command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
                for _ in range(3):
                    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
                    # Threads of gloo's that still need Python when it ends abort the process, rarely: not what is tested here.
                    if "terminate called without an active exception" not in done.stderr:
                        break
                self.assertEqual(done.returncode, 0, done.stderr)
                loss = float(re.search(r"^loss ([\d.]+)$", done.stdout, re.M).group(1))
                self.assertLess(loss, 0.3)
                if "summary" in example:
                    self.assertRegex(done.stdout, r"(?m)^(all|root/gradients) +(51001|100) ")


if __name__ == "__main__":
    unittest.main()
