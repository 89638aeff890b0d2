import subprocess, sys, time, signal, os
p = subprocess.Popen([sys.executable, "-m", "pistole", "finetune", "natural", "--out", "new"], stderr=subprocess.PIPE, text=True)
for line in p.stderr:
    print("LINE", line, end="", flush=True)
    if "step 1," in line:
        time.sleep(2); p.send_signal(signal.SIGINT)
print("RC", p.wait())
