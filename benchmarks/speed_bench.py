"""The same as ``diffstyle bench``, from the source tree."""

from pipeline.commands.bench import bench

if __name__ == "__main__":
    bench()
