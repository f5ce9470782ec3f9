"""What tests share: the command line as a process, servers, a browser, studies made by hand, chaos."""
