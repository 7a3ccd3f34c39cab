"""`python -m mixbit`, which launchers such as torchrun need."""

from mixbit.cli import main

if __name__ == "__main__":
    main()
