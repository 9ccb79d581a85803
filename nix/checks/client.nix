# A machine that fetches from the build server, for the checks.
{
  programs.build-client = {
    enable = true;
    server = "http://build-server:8000";
    cacheUrl = "http://build-server:5000";
    publicKey = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
  };
}
