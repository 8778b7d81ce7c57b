"""The same as ``diffstyle bench``, from the source tree."""

from pipeline.cli.bench import bench

if __name__ == "__main__":
    bench()
