from farspan.lab.embedded.make import main

if __name__ == "__main__":
    main()
