"""Sentences that sites say of themselves are told from sentences about the same things, in many languages."""

# ruff: noqa: RUF001
from __future__ import annotations

import pytest

from pipeline_lib.pairs.web_notices import is_notice

NOTICES = """\
This website stores data such as cookies to enable essential site functionality.
We and our partners store and access information on a device, such as unique identifiers.
You do not have permission to view attachments in this forum.
There are currently 3 users browsing this thread, 1 member and 2 guests.
Get our best stories delivered to your inbox every morning for free.
Enter your email address to follow this blog and receive notifications of new posts.
This article is for subscribers only, please subscribe to continue reading it.
Sorry, the page you are looking for could not be found on this server.
Please turn off your ad blocker to continue to use this website.
No part of this website may be reproduced without the permission of the owner.
The views expressed here are those of the author and not of the company.
Customers who bought this item also bought the following items from us.
anna77 said: Click to expand and see the whole of the quoted message here.
Was this review helpful to you? Yes No Report abuse by this reviewer.
Ships from and sold by Example Inc. Usually dispatched within 24 hours of order.
Story continues below this advertisement from one of our sponsors and friends.
Share on Facebook Share on Twitter Share by Email Print this article Save for later
Save my name, email, and website in this browser for the next time I comment.
Mit der Nutzung dieser Seite stimmen Sie der Verwendung von Cookies zu.
Bitte melden Sie sich an, um einen Kommentar zu diesem Artikel zu schreiben.
Alle Preise verstehen sich inklusive der gesetzlichen Mehrwertsteuer und zuzüglich Versandkosten.
Die gewünschte Seite konnte auf diesem Server leider nicht gefunden werden.
Vous devez être connecté pour publier un commentaire sur cet article.
Cet article est réservé aux abonnés, connectez-vous pour lire la suite.
Suscríbete a nuestro boletín para recibir las últimas noticias cada semana.
La página que está buscando no se encuentra en este servidor.
Il tuo indirizzo email non sarà pubblicato insieme al tuo commento.
Você precisa fazer login para publicar um comentário neste artigo do blog.
Schrijf je nu in voor onze gratis nieuwsbrief en blijf op de hoogte.
Musisz się zalogować, aby móc dodać komentarz do tego artykułu.
Чтобы оставить комментарий, необходимо войти на сайт или зарегистрироваться на нём.
При использовании материалов сайта активная ссылка на источник обязательна для всех.
您需要登录后才可以回复本帖，没有帐号请立即注册成为会员。
本网站所有内容版权归原作者所有，如有侵权请联系我们删除。
コメントを投稿するには、ログインするか会員登録をする必要があります。
お探しのページは見つかりませんでした。アドレスをご確認ください。
이 웹사이트는 더 나은 사용자 경험을 제공하기 위해 쿠키를 사용합니다.
يجب أن تكون مسجلا الدخول لتتمكن من إضافة تعليق على هذا المقال."""
PROSE = """\
She baked a cookie for each of the children in her class.
Our partners in the north built the bridge in less than a year.
The guard gave them permission to view the ship from the pier.
Every subscriber of the old telephone exchange had a number of four digits.
Ships from the north were sold by the dozen when the war was over.
Her review of the book found little that was of help to anybody.
The king was contacted at once, and he answered on the same day.
The court held that the letter could be printed without written permission.
The page you see here was written by a monk in the ninth century.
He bought a horse, and his brother also bought one at the same fair.
The prices of bread were subject to change from one week to the next.
Die Seite war so dunkel, dass er den Brief nicht lesen konnte.
Seine Abonnenten wussten nichts von dem Streit in der Redaktion.
La page était blanche, et personne ne savait qui l'avait arrachée.
El correo electrónico cambió la vida de las oficinas en pocos años.
La pagina del libro era strappata, e nessuno sapeva il perché.
На этой странице книги рассказывается о войне и о мире.
他登录了那座小岛，发现岛上没有一个人住。
この船は会員の寄付によって百年前に建てられた。
그는 쿠키를 굽고 나서 친구들에게 나누어 주었다."""


@pytest.mark.parametrize("sentence", NOTICES.splitlines())
def test_what_a_site_says_of_itself_is_a_notice(sentence: str) -> None:
    assert is_notice(sentence)


@pytest.mark.parametrize("sentence", PROSE.splitlines())
def test_sentences_about_the_same_things_are_none(sentence: str) -> None:
    assert not is_notice(sentence)
