from contex_server.cli import main

main()
